# The resident: one a node, one request a line in, answers and events a line out. It keeps no state: the folders are
# the truth, and any number of residents may look at them at once. Before this text come, as assignments:
#   nonce    a random word that starts every line of ours (whatever a profile prints is not ours)
#   scratch  the node's scratch folder, or nothing: the first one that can be written
#   library  a name for this version of our scripts, which the function write_library puts into the folder $lib
# Answers end with "done NUMBER ..." or "fail NUMBER ..."; rows before it carry the same number.
exec 3>&1 1>/dev/null 2>/dev/null
say() { printf '%s %s\n' "$nonce" "$*" >&3; }

# ours FOLDER: /var/tmp belongs to everybody, and what somebody else put there under our name is not ours.
ours() { [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ] && [ -w "$1" ]; }
case $scratch in '~' | '~/'*) scratch=$HOME${scratch#'~'} ;; esac
name=distribute-$(id -u)
set -- "$scratch"
[ -n "$scratch" ] || set -- /scratch /var/tmp "$HOME/.cache"
root=
# The folder that is there already comes first: a /scratch mounted later must not hide the attempts in /var/tmp.
for place; do
    if [ -z "$root" ] && ours "$place/$name"; then root=$place/$name; fi
done
for place; do
    [ -z "$root" ] || break
    [ "$place" != "$HOME/.cache" ] || mkdir -p "$place"
    if mkdir -m 700 "$place/$name" && ours "$place/$name"; then root=$place/$name; fi
done
[ -n "$root" ] && cd "$root" && mkdir -p files batches attempts "lib-$library" || { say scratch "$place"; exit 0; }
chmod 700 .
# A name for this very folder: two nodes that say the same one share a disk, and would run into each other.
[ -s room ] || { printf '%s\n' "$nonce" > "room.$$" && { ln "room.$$" room || [ -s room ] || mv "room.$$" room; }; }
room=
read -r room < room && [ -n "$room" ] || room=$nonce    # a full disk
rm -f "room.$$"
lib=lib-$library
if [ ! -e "$lib/whole" ]; then
    : > "$lib/new.$$" || { say full "$root"; exit 0; }
    write_library && mv "$lib/new.$$" "$lib/whole" || { rm -f "$lib/new.$$"; say full "$root"; exit 0; }
fi
# Scripts of other versions stay while a head of that version may still be at work here.
touch "$lib"
find . -maxdepth 1 -name 'lib-*' -mtime +30 -exec rm -rf {} +
. "./$lib/members.sh"
. "./$lib/lease.sh"

read -r boot < /proc/sys/kernel/random/boot_id
DISTRIBUTE_BOOT=$boot DISTRIBUTE_NONCE=$nonce
export DISTRIBUTE_BOOT DISTRIBUTE_NONCE
desk=$root-desk
case $root in "$HOME"/*) desk=/var/tmp/$name-desk ;; esac       # homes are closed to other people

# sight TOKEN: sets $sight to what its folder tells.
recorded() { for record in "attempts/$1"/exit.*; do [ -e "$record" ] && code=${record##*.} && return 0; done; return 1; }
sight() {
    if [ ! -d "attempts/$1" ]; then sight=absent
    elif recorded "$1"; then sight="ended $code"
    elif [ ! -d "attempts/$1/claim" ]; then sight=unstarted
    elif identity "attempts/$1/pid"; then in_time "$1"
    elif recorded "$1"; then sight="ended $code"        # it ended between our two looks
    elif [ -s "attempts/$1/pid" ]; then sight=gone
    elif recorded "$1"; then sight="ended $code"
    else sight=claimed
    fi
}

# in_time TOKEN: it runs (r), or a lease is there, perhaps one that ends in this moment (p); and for how many seconds
# it was paused by those that are gone. In this order: who finds no lease finds all that they took.
in_time() {
    is=r paused=0
    for file in lease.*; do
        of=
        { read -r until since said of rest < "$file"; } 2>/dev/null
        if [ "$of" = "$boot" ]; then is=p; fi
    done
    for file in "attempts/$1"/paused.*; do
        { read -r more < "$file" && paused=$((paused + more)); } 2>/dev/null
    done
    sight=running
    [ "$is $paused" = "r 0" ] || sight="running $paused $is"
}

# tend: a lease of another boot is void, and one whose timer was killed gets another; likewise the watcher of the desk.
tend() {
    for file in lease.*; do
        of=
        { read -r until since said of rest < "$file"; } 2>/dev/null || continue
        if [ "$of" != "$boot" ]; then rm -f "$file" "timer.${file#lease.}"
        elif ! identity "timer.${file#lease.}"; then detached "$lib/pause.sh" 0 "${file#lease.}" "$lib"
        fi
    done
    if [ -e desk.rules ] && ! identity "watcher-$library"; then detached "$lib/watch.sh" "$desk" "$lib"; fi
}

# remove FOLDER TOKEN...: in the background, since a big tree takes its time; says which would not go.
remove() {
    in=$1; shift
    for token; do set -- "$@" "$in/$token"; shift; done
    rm -rf "$@"
    for path; do
        [ -e "$path" ] || continue
        chmod -R u+rwX "$path"; rm -rf "$path"  # a job may have taken its own rights away
        [ -e "$path" ] && say kept "$number" "${path##*/}"
    done
    say done "$number"
}

# reap TOKEN...: ends what ended attempts left running. Hardly any does, so one look for all of them comes first.
reap() {
    left=0
    if grep -qsaF "$(printf 'DISTRIBUTE_ATTEMPT=%s\n' "$@")" /proc/[0-9]*/environ; then left=$(kill_all "$*" '' 2); fi
    say done "$number" "$((left))"
}

# open_desk: lets the people at this machine in, and keeps the program they type up to date.
open_desk() {
    mkdir -p "$desk/asked" "$desk/told" && ours "$desk" && chmod 755 "$desk" "$desk/told" && chmod 1777 "$desk/asked" || return
    quoted=$(printf '%s\n' "$desk" | sed "s/'/'\\\\''/g")
    { printf "#!/bin/sh\ndesk='%s' node=%s\n" "$quoted" "$1"; cat "$lib/desk.sh"; } > "$desk/new.$$" &&
        chmod 755 "$desk/new.$$" && mv "$desk/new.$$" "$desk/distribute"
}

# A line that hung may bring, minutes later, what was sent into it: the start of an attempt that has run and was wiped
# meanwhile. So whoever lists the attempts of a queue takes its helm, and who lost that obeys no more.
queue= me=$$-$(date +%s)
take_helm() { queue=$1; echo "$me" > "helm.$queue"; }
has_helm() { [ -z "$queue" ] || ! read -r helm < "helm.$queue" || [ "$helm" = "$me" ]; }

tend
# A leading newline: a profile may have printed without one.
printf '\n' >&3
say hello 1 "$boot" "$$" "$room" "$root"
while IFS=' ' read -r verb number rest; do
    set -f; set -- $rest; set +f
    [ "$verb" = list ] || has_helm || exit 0
    case $verb in
    ping) jobs; say done "$number" ;;
    look)
        for token; do sight "$token"; say sight "$number" "$token" "$sight"; done
        tell_lease "$number"; say done "$number"; tend ;;
    list) # every attempt and batch of one queue
        take_helm "$1"
        for token in attempts/"$1"-*; do
            [ -d "$token" ] || continue
            token=${token##*/}; sight "$token"; say sight "$number" "$token" "$sight"
        done
        for token in $(grep -saho "DISTRIBUTE_ATTEMPT=$1-[a-z0-9]*" /proc/[0-9]*/environ | sort -u); do
            token=${token#*=}
            [ -d "attempts/$token" ] || say stray "$number" "$token"
        done
        for token in batches/"$1"-*; do [ -d "$token" ] && say batch "$number" "${token##*/}"; done
        tell_lease "$number"
        if [ -e desk.rules ]; then say done "$number" desk; else say done "$number"; fi ;;
    start | write) # start NUMBER TOKEN SCRIPT; sending it again is always safe: see the wrapper. `write` begins nothing
        token=$1
        if mkdir "attempts/$token"; then script=run.sh; else script=run.$$; fi  # a wrapper may be reading the other
        if printf '%b' "${rest#* }" > "attempts/$token/$script" &&
            { [ "$script" = run.sh ] || mv "attempts/$token/$script" "attempts/$token/run.sh"; }
        then [ "$verb" = write ] || detached "$lib/wrapper.sh" "$token" "$lib"; say done "$number"
        else rm -f "attempts/$token/$script"; say fail "$number" full; fi ;;
    put) # put NUMBER SHA256 TEXT: a tiny input; one cut short has another size, and is put again
        if printf '%b' "${rest#* }" > "files/$1"; then say done "$number"
        else rm -f "files/$1"; say fail "$number" full; fi ;;
    warn) warn "$1" "$2"; say done "$number" ;;
    kill) detached "$lib/kill.sh" "$number" "$1" "$2" "$lib" ;;     # answers by itself
    pause) # pause NUMBER ID SECONDS AGE WHO [WHY], asked for AGE seconds ago; what was said since then wins
        if is_later "$3" && [ "$id" != "$1" ]; then tell_lease "$number"; say done "$number"
        elif begin_lease "$1" "$2" "$4" "$5"; then groups STOP; detached "$lib/pause.sh" "$number" "$1" "$lib"
        else say fail "$number" full; fi ;;
    extend) # extend NUMBER ID SECONDS WHO [WHY]: while that very lease stands; its timer sees it
        if standing && [ "$id" = "$1" ] && ! begin_lease "$1" "$2" "$3" "$4"; then say fail "$number" full
        else tell_lease "$number"; say done "$number"; fi ;;
    resume) # resume NUMBER AGE, the same
        if ! is_later "$1"; then
            for file in lease.*; do end_lease "${file#lease.}"; done
            groups CONT
        fi
        detached "$lib/resume.sh" "$number" "$lib" ;;
    desk) # desk NUMBER MOST NODE OWNER...: pauses from the desk, of at most MOST seconds
        if open_desk "$2" && echo "$*" > "desk.rules.$$" && mv "desk.rules.$$" desk.rules
        then tend; say done "$number" "$desk"
        else rm -f "desk.rules.$$"; say fail "$number" full; fi ;;
    undesk) rm -f desk.rules desk.log desk.log.old; rm -rf "$desk"; say done "$number" "$desk" ;;
    reap) reap "$@" & ;;
    slurm) detached "$lib/slurm.sh" "$number" "$lib" "$@" ;;        # answers by itself
    activity) detached "$lib/activity.sh" "$number" "$lib" "$PPID" "$@" ;;  # answers by itself
    drop) remove attempts "$@" & ;;
    clear) remove batches "$@" & ;;
    *) say fail "$number" verb ;;
    esac
done
