# The watcher of this desk: obeys the people who sit at this machine, without a network. Called: sh watch.sh DESK LIB, in
# our folder, in a session of its own.
#
# DESK is a folder beside ours. Whoever wants something makes an empty file in DESK/asked, where everybody may: its name,
# VERB.SECONDS.WORD, is the request, and its owner is who asks. What is in it is never read, so that links, pipes and
# huge files have nothing to offer. The answer is DESK/told/NAME: an exit status, then text.
trap '' HUP INT TERM PIPE
boot=$DISTRIBUTE_BOOT
export DISTRIBUTE_NONCE=desk
desk=$1 lib=$2
. "$lib/members.sh"
. "$lib/lease.sh"
umask 022
exec 3> /dev/null
mine=watcher-${lib##*-}
read -r stat < "/proc/$$/stat"
set -- ${stat##*) }
for other in watcher-*; do rm -f "$other"; done         # one of another version leaves when it finds its own gone
echo "$$ ${20} $boot" > "new.$$" && mv "new.$$" "$mine" || exit 1

at() { date -d "@$1" '+%H:%M' 2>/dev/null || echo "in $((($1 - $(date +%s)) / 60)) minutes"; }
plain() { printf '%b' "$1" | tr -cd '\040-\176\200-\377'; }
note() { printf '%s %s\n' "$(date '+%Y-%m-%d %H:%M:%S')" "$*" >> desk.log; }

# named UID: a login name. Where people are kept in a directory elsewhere and the network is away, there is none in time.
named() { if command -v timeout > /dev/null; then timeout 1 id -un "$1"; else id -un "$1"; fi 2>/dev/null; }

# may UID: sets $called, the name, where it comes by the way; whether that person is obeyed: somebody with a seat or a login at this machine, an owner, root, or ourselves.
may() {
    [ "$1" = 0 ] || [ "$1" = "$us" ] && return
    for session in /run/systemd/sessions/*; do
        user= kind= is= called=
        { while IFS='=' read -r key value; do
            case $key in UID) user=$value ;; USER) called=$value ;; CLASS) kind=$value ;; STATE) is=$value ;; esac
        done < "$session"; } 2>/dev/null
        [ "$user" = "$1" ] && [ "$kind" = user ] && [ "$is" != closing ] && return
    done
    called=$(named "$1") || return 1
    for owner in $owners; do [ "$owner" = "$called" ] && return; done
    who 2>/dev/null | { while read -r user rest; do [ "$user" = "$called" ] && exit 0; done; exit 1; }
}

# jobs_here: one line for each attempt that runs here.
jobs_here() {
    for file in attempts/*/pid; do
        identity "$file" || continue
        space= batch= job= submitter=
        while IFS= read -r line; do
            value=${line#*=} value=${value#\'} value=${value%\'}
            case $line in
            '    export DISTRIBUTE_NAMESPACE='*) space=$value ;;
            '    export DISTRIBUTE_BATCH='*) batch=$value ;;
            '    export DISTRIBUTE_JOB_NAME='*) job=$value ;;
            '    export DISTRIBUTE_USER='*) submitter=$value ;;
            esac
        done < "${file%pid}run.sh"
        printf '  %s  of %s, since %s\n' "$space/$batch/${job:-(its build)}" "$submitter" "$(date -r "$file" '+%a %H:%M')"
    done 2>/dev/null | tr -cd '\012\040-\176\200-\377'
}

pause_line() {
    if standing; then
        printf '%s is paused by %s until %s: %s\n' "$node" "$(plain "$who")" "$(at "$epoch")" "$(plain "${why:-no reason given}")"
    else
        printf '%s is not paused\n' "$node"
    fi
}

status() {
    pause_line
    here=$(jobs_here)
    if [ -n "$here" ]; then printf 'here for distribute:\n%s\n' "$here"; else echo 'nothing runs here for distribute'; fi
}

explain() {
    pause_line
    if standing; then
        echo 'What runs here for distribute stands still until then, and nothing new begins; `distribute resume` ends it now.'
    else
        echo "Jobs of distribute may run here. \`distribute pause\` stops them at once, for at most $longest."
    fi
    echo "Obeyed are people who are logged in here${owners:+, and $owners}."
}

# pause WORD SECONDS WHO: answers when everything stands still, and names what does not.
pause() {
    [ "$2" -gt 0 ] || { set -- "$1" "$((most < 3600 ? most : 3600))" "$3"; }
    [ "$2" -le "$most" ] || { echo 2; echo "a pause of $node takes at most $longest; it may be said again before it ends"; return; }
    begin_lease "fromdesk-$1" "$2" "$3" 'at\0040its\0040desk' || { echo 5; echo "no room left in $PWD"; return; }
    groups STOP
    : > "desk.rows.$1"
    # Not $id any more: begin_lease looks at what stands, and that sets it.
    DISTRIBUTE_BOOT=$boot detached "$lib/pause.sh" 1 "fromdesk-$1" "$lib" 3> "desk.rows.$1"
    waited=0
    until grep -q '^desk done' "desk.rows.$1" || [ "$waited" -ge 100 ]; do sleep 0.05 || sleep 1; waited=$((waited + 1)); done 2>/dev/null
    left=$(sed -n 's/^desk moves 1 [^ ]* /  /p' "desk.rows.$1")
    rm -f "desk.rows.$1"
    [ -z "$left" ] && echo 0 || echo 1
    pause_line
    [ -z "$left" ] || printf 'these would not stop:\n%s\n' "$left"
}

resume() {
    for file in lease.*; do end_lease "${file#lease.}"; done
    groups CONT
    echo 0
    pause_line
    obey
}

# answer NAME UID
answer() {
    read -r most node owners < desk.rules || return
    if [ "$((most % 3600))" = 0 ]; then longest="$((most / 3600)) h"; else longest="$((most / 60)) min"; fi
    verb=${1%%.*} rest=${1#*.}
    seconds=${rest%%.*} word=${rest#*.}
    if [ "$verb" = status ]; then echo 0; status
    elif [ "$verb" = why ]; then echo 0; explain
    elif called= && ! may "$2"; then
        note "not obeyed: $verb, asked by user $2, who is not logged in here and no owner"
        echo 1; echo "not obeyed: you are not logged in at $node, and not among its owners"
    else
        person=$(printf '%s' "${called:-$(named "$2")}" | tr -cd 'A-Za-z0-9._@-')
        note "$verb $seconds, asked by ${person:-$2}"
        case $verb in pause) pause "$word" "$seconds" "${person:-user-$2}" ;; resume) resume ;; esac
    fi
}

# serve FILE...: all that lies in DESK/asked. In one look for all: ten thousand of them must not cost a process each.
serve() {
    clean=
    for file; do
        file=${file##*/}
        case $file in *[!a-z0-9.]*) continue ;; esac
        case $file in
        pause.[0-9]*.??????* | resume.0.??????* | status.0.??????* | why.0.??????*) ;;
        *) continue ;;
        esac
        rest=${file#*.}
        case ${rest%%.*} in *[!0-9]* | ???????* | 0?*) continue ;; esac
        case ${rest#*.} in *.* | ?????????????????????????*) continue ;; esac
        clean="$clean $file"
    done
    if [ -n "$clean" ]; then
        # A link has no owner that counts, a second name may be of a file that somebody else made, and ours are empty
        # and closed to others. Of each person a few at a time: a thousand requests of one are nobody else's wait.
        ( cd "$desk/asked" && LC_ALL=C TIME_STYLE=locale ls -lnd $clean ) 2>/dev/null | awk 'number[$3]++ < 8' |
        while read -r mode links uid gid size month day time name; do
            case $mode in -rw-------*) ;; *) continue ;; esac
            [ "$links $size" = "1 0" ] && [ ! -e "$desk/told/$name" ] || continue
            answer "$name" "$uid" > "$desk/told.$$"
            mv "$desk/told.$$" "$desk/told/$name"
        done
    fi
    printf '%s\0' "$@" | xargs -0 rm -f -- 2>/dev/null
    # Folders stay: out of our sight with them, or each look would cost what somebody put there.
    for file in "$desk/asked"/* "$desk/asked"/.[!.]*; do
        [ -d "$file" ] && [ ! -L "$file" ] || continue
        note "not obeyed: folders in $desk/asked are no requests; put aside"
        aside=$desk/aside.$(date +%s).$$
        mkdir "$desk/new.$$" && chmod 1777 "$desk/new.$$" && mv "$desk/asked" "$aside" && mv "$desk/new.$$" "$desk/asked"
        for file in "$aside"/*; do [ -d "$file" ] || mv "$file" "$desk/asked"; done
        rm -rf "$aside"
        break
    done
}

# Ours lies where everybody may make a folder: if it was swept away, what is there now may be a stranger's, and lead
# to a folder of ours where we would tidy up.
ours() { [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ]; }
us=$(id -u) round=0
while read -r pid rest < "$mine" && [ "$pid" = "$$" ] && [ -e desk.rules ] && ours "$desk" && ours "$desk/asked"; do
    set -- "$desk/asked"/* "$desk/asked"/.[!.]*
    if [ -e "$1" ] || [ -L "$1" ] || [ -e "$2" ] || [ -L "$2" ]; then serve "$@" > /dev/null 2>&1; fi
    round=$((round + 1))
    if [ "$round" -ge 1000 ]; then
        round=0
        find "$desk/told" -type f -mmin +10 -exec rm -f {} +
        if [ "$(wc -c < desk.log)" -gt 100000 ]; then mv desk.log desk.log.old; fi
    fi 2>/dev/null
    sleep 0.5 2>/dev/null || sleep 1
done
if [ "$pid" = "$$" ]; then rm -f "$mine"; fi
