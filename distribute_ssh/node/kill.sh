# Ends one attempt and everything it started. Called: sh kill.sh NUMBER TOKEN GRACE LIB, fd 3 = the event channel.
trap '' HUP PIPE
nonce=$DISTRIBUTE_NONCE boot=$DISTRIBUTE_BOOT
unset DISTRIBUTE_NONCE DISTRIBUTE_BOOT
. "$4/members.sh"
home=attempts/$2

# Nobody can start it from here on: the claim is taken, by the wrapper or by us.
mkdir "$home/claim" 2>/dev/null && echo > "$home/never-started"

if identity "$home/pid"; then wrapper=$pid; else wrapper=0; fi
left=$(kill_all "$2" "$wrapper" "$3" 3>&-)
left=$((left))

# The wrapper records the end by itself within a moment of its child's end.
waited=0
while [ "$wrapper" != 0 ] && [ "$waited" -lt 50 ] && identity "$home/pid"; do
    sleep 0.1 2>/dev/null || sleep 1
    waited=$((waited + 1))
done
recorded=
for record in "$home"/exit.*; do [ -e "$record" ] && recorded=1; done
if [ -z "$recorded" ] && [ "$left" = 0 ]; then
    # No wrapper to do it (killed, or the machine was restarted under it): what was saved is kept, the end is "lost".
    if identity "$home/pid"; then kill -s KILL "$pid" 2>/dev/null; fi
    slot=. save=
    if [ -f "$home/run.sh" ]; then . "./$home/run.sh"; fi
    if [ -n "$save" ] && [ ! -d "$home/save" ] && [ ! -e "$home/never-started" ]; then
        mv "$slot/distribute_save" "$home/save" 2>/dev/null
    fi
    if [ -e "$home/pid" ]; then mv "$home/pid" "$home/exit.lost"; else mkdir "$home/exit.lost"; fi
fi
printf '%s done %s %s\n' "$nonce" "$1" "$left" >&3
