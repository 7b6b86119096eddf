# Ends one attempt and everything it started. Called: sh kill.sh NUMBER TOKEN GRACE LIB, fd 3 = the event channel.
trap '' HUP PIPE
nonce=$DISTRIBUTE_NONCE boot=$DISTRIBUTE_BOOT
unset DISTRIBUTE_NONCE DISTRIBUTE_BOOT
. "$4/members.sh"
home=attempts/$2

# Nobody can start it from here on: the claim is taken, by the wrapper or by us. The folder is made for that where the
# start has not come yet: it may still be on its way, on a line that was given up.
mkdir -p "$home"
mkdir "$home/claim" 2>/dev/null && echo > "$home/never-started"
: > "$home/ending"                              # a pause lets it alone from here on: who is stopped cannot end

recorded() { for record in "$home"/exit.*; do [ -e "$record" ] && return 0; done; return 1; }

# The wrapper is held while we look for the last process: else it would begin the next step of the attempt behind our
# back, and the `mv` with which it records the end would be taken for a process of the job. A step that it was about
# to begin when it was held shows when it is let go; then all of it once more.
round=0
while
    if identity "$home/pid"; then wrapper=$pid; kill -s STOP "$wrapper" 2>/dev/null; else wrapper=0; fi
    left=$(kill_all "$2" "$wrapper" "$3" 3>&-)
    left=$((left))
    if [ "$wrapper" != 0 ] && identity "$home/pid"; then kill -s CONT "$wrapper" 2>/dev/null; fi
    waited=0
    while [ "$waited" -lt 10 ] && identity "$home/pid"; do
        sleep 0.1 2>/dev/null || sleep 1
        waited=$((waited + 1))
    done
    round=$((round + 1))
    [ "$left" = 0 ] && [ "$round" -lt 5 ] && identity "$home/pid"
do :; done

if [ "$left" = 0 ] && ! recorded; then
    # No wrapper to do it (killed, or the machine was restarted under it): what was saved is kept, the end is "lost".
    if identity "$home/pid"; then kill -s KILL "$pid" 2>/dev/null; fi
    slot=. save=
    if sh -n "$home/run.sh" 2>/dev/null; then . "./$home/run.sh"; fi
    if [ -n "$save" ] && [ ! -d "$home/save" ] && [ ! -e "$home/never-started" ]; then
        mv "$slot/distribute_save" "$home/save" 2>/dev/null
    fi
    if [ -e "$home/pid" ]; then mv "$home/pid" "$home/exit.lost"; else mkdir "$home/exit.lost"; fi
fi
printf '%s done %s %s\n' "$nonce" "$1" "$left" >&3
