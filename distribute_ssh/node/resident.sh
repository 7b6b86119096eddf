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
lib=lib-$library
if [ ! -e "$lib/whole" ]; then
    : > "$lib/new.$$" || { say full "$root"; exit 0; }
    write_library && mv "$lib/new.$$" "$lib/whole" || { rm -f "$lib/new.$$"; say full "$root"; exit 0; }
fi
# Scripts of other versions stay while a head of that version may still be at work here.
touch "$lib"
find . -maxdepth 1 -name 'lib-*' -mtime +30 -exec rm -rf {} +
. "./$lib/members.sh"

read -r boot < /proc/sys/kernel/random/boot_id
DISTRIBUTE_BOOT=$boot DISTRIBUTE_NONCE=$nonce
export DISTRIBUTE_BOOT DISTRIBUTE_NONCE
# `setsid -f` leaves INT and QUIT at their defaults and no zombie here; `&` in this shell would ignore both for life.
if setsid -f true; then
    detached() { setsid -f /bin/sh "$@" < /dev/null 3>&3; }
elif command -v setsid > /dev/null; then
    detached() { setsid /bin/sh "$@" < /dev/null 3>&3 & }
else
    detached() { /bin/sh "$@" < /dev/null 3>&3 & }
fi

# sight TOKEN: sets $sight to what its folder tells.
recorded() { for record in "attempts/$1"/exit.*; do [ -e "$record" ] && code=${record##*.} && return 0; done; return 1; }
sight() {
    if [ ! -d "attempts/$1" ]; then sight=absent
    elif recorded "$1"; then sight="ended $code"
    elif [ ! -d "attempts/$1/claim" ]; then sight=unstarted
    elif identity "attempts/$1/pid"; then sight=running
    elif recorded "$1"; then sight="ended $code"        # it ended between our two looks
    elif [ -s "attempts/$1/pid" ]; then sight=gone
    elif recorded "$1"; then sight="ended $code"
    else sight=claimed
    fi
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

# A leading newline: a profile may have printed without one.
printf '\n' >&3
say hello 1 "$boot" "$$" "$root"
while IFS=' ' read -r verb number rest; do
    set -f; set -- $rest; set +f
    case $verb in
    ping) jobs; say done "$number" ;;
    look) for token; do sight "$token"; say sight "$number" "$token" "$sight"; done; say done "$number" ;;
    list) # every attempt and batch of one queue
        for token in attempts/"$1"-*; do
            [ -d "$token" ] || continue
            token=${token##*/}; sight "$token"; say sight "$number" "$token" "$sight"
        done
        for token in batches/"$1"-*; do [ -d "$token" ] && say batch "$number" "${token##*/}"; done
        say done "$number" ;;
    start) # start NUMBER TOKEN SCRIPT; sending it again is always safe: see the wrapper
        token=$1; mkdir "attempts/$token"
        if printf '%b' "${rest#* }" > "attempts/$token/run.$$" && mv "attempts/$token/run.$$" "attempts/$token/run.sh"
        then detached "$lib/wrapper.sh" "$token"; say done "$number"
        else rm -f "attempts/$token/run.$$"; say fail "$number" full; fi ;;
    kill) detached "$lib/kill.sh" "$number" "$1" "$2" "$lib" ;;     # answers by itself
    drop) remove attempts "$@" & ;;
    clear) remove batches "$@" & ;;
    *) say fail "$number" verb ;;
    esac
done
