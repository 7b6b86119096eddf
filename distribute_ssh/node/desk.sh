# distribute, for the people at this machine; put here by `distribute nodes alias`. It needs no network and no rights:
# it leaves a request in a folder of this machine ($desk), where distribute looks.
usage() {
    cat <<'END'
usage: distribute pause [TIME]   stop what runs here for distribute: 90 (seconds), 15m, 1h30m, 01:30:00; else an hour
       distribute resume         let it go on
       distribute status         what runs here, whose, and until when it is paused
       distribute why            why it is paused, or not, and who may change that
END
}
wrong() { printf 'distribute: %s\n' "$*" >&2; exit 2; }

# decimal DIGITS: without leading zeros, which a shell would take for octal; sets $number.
decimal() {
    number=$1
    while case $number in 0?*) ;; *) false ;; esac; do number=${number#0}; done
    case $number in ??????*) wrong "$1: too long" ;; esac
}

# to_seconds TIME: sets $seconds.
to_seconds() {
    seconds=0
    case $1 in
    '' | *[!0-9hms:]*) wrong "$1: no time; say 90 (seconds), 15m, 1h30m or 01:30:00" ;;
    *[!0-9:]*:* | *:*[!0-9:]* | *:*:*:* | :* | *: | *::*) wrong "$1: no time; say 01:30:00" ;;
    *:*)
        left=$1:
        while [ -n "$left" ]; do decimal "${left%%:*}"; seconds=$((seconds * 60 + number)); left=${left#*:}; done ;;
    *[!0-9]*)
        left=$1
        for unit in h:3600 m:60 s:1; do
            case $left in
            *"${unit%:*}"*)
                case ${left%%"${unit%:*}"*} in '' | *[!0-9]*) wrong "$1: no time; say 1h30m" ;; esac
                decimal "${left%%"${unit%:*}"*}"
                seconds=$((seconds + number * ${unit#*:})) left=${left#*"${unit%:*}"} ;;
            esac
        done
        [ -z "$left" ] || wrong "$1: no time; say 1h30m" ;;
    *) decimal "$1"; seconds=$number ;;
    esac
    [ "$seconds" -gt 0 ] && [ "$seconds" -lt 1000000 ] || wrong "$1: a pause takes at least a second, and no weeks"
}

verb=${1:-} seconds=0
case $verb in
pause)
    shift
    case ${1:-} in --for | --duration) shift; [ "$#" -gt 0 ] || wrong "--for needs a time" ;; --for=* | --duration=*) set -- "${1#*=}" ;; esac
    [ "$#" -le 1 ] || wrong "pause takes one time"
    [ "$#" = 0 ] || to_seconds "$1" ;;
resume | status | why) [ "$#" = 1 ] || wrong "$verb takes nothing more" ;;
-h | --help | help) usage; exit 0 ;;
'') usage >&2; exit 2 ;;
*) usage >&2; wrong "$verb: not from here; for all else, distribute is to be installed" ;;
esac

name=$verb.$seconds.$(date +%s)$$
file=$desk/asked/$name
ask() { ( umask 077; set -C; : > "$file" ) 2>/dev/null; }
ask || { sleep 1; ask; } || {         # the folder is made anew where somebody put rubbish into it
    printf 'distribute: %s is not open to us: is %s still a node? (distribute nodes alias %s)\n' "$desk" "$node" "$node" >&2
    exit 3
}
trap 'rm -f "$file"; exit 130' INT TERM
waited=0
while [ "$waited" -lt 200 ]; do
    if [ -f "$desk/told/$name" ]; then
        { read -r code; cat; exit "$code"; } < "$desk/told/$name"
    fi
    sleep 0.1 2>/dev/null || { sleep 1; waited=$((waited + 9)); }
    waited=$((waited + 1))
done
rm -f "$file"
printf 'distribute: no answer on %s: since its last restart nobody of distribute was here, so nothing runs\n' "$node" >&2
exit 3
