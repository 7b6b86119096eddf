# What can be read, without any right, of somebody being at this machine. It decides nothing. Called: sh activity.sh
# NUMBER LIB ABOVE WINDOW GPU FILE..., in our folder, in a session of its own, fd 3 = the event channel. ABOVE: the
# parent of the resident; WINDOW: seconds over which processors are watched, 0 for an answer at once; GPU: 1 to ask for
# its processes, which takes a while; FILE: further files that somebody at the desk uses, spelled for printf %b.
#
# Each "reading KIND ..." is about one thing; "KIND none" says that it was looked for, "KIND unknown" that it cannot be
# read here. Times are told as ages in seconds, since our clocks need not agree.
trap '' HUP PIPE
nonce=$DISTRIBUTE_NONCE boot=$DISTRIBUTE_BOOT
unset DISTRIBUTE_NONCE DISTRIBUTE_BOOT
number=$1 lib=$2 above=$3 window=$4 gpu=$5
shift 5
. "$lib/members.sh"
. "$lib/lease.sh"
exec 2>/dev/null
say() { printf '%s %s\n' "$nonce" "$*" >&3; }
row() { say reading "$number" "$@"; }
have() { command -v "$1" > /dev/null; }
# A bus or a driver that hangs shall not leave one more of us behind at every question.
if have timeout; then limited() { timeout 10 "$@" 3>&-; }; else limited() { "$@" 3>&-; }; fi
me=$(id -u)
clock=$(date +%s)

# --- terminals: the kernel notes when one was last typed at (to 8 seconds), also of sessions that logind knows not ---

if have stat; then
    # Ours have no terminal; what a job of this account opens is nobody's.
    stat -c '%X %u %n' /dev/tty[0-9]* /dev/pts/[0-9]* | sort -rn | {
        told=0
        while [ "$told" -lt 5 ] && read -r at uid name; do
            [ "$uid" != "$me" ] || continue
            row tty "$((clock - at))" "$uid" "${name#/dev/}"
            told=$((told + 1))
        done
        [ "$told" != 0 ] || row tty none
    }
else
    row tty unknown
fi
for file; do
    at=$(stat -L -c '%X %Y' "$(printf '%b' "$file")")
    if [ -n "$at" ]; then row watch "$((clock - (${at% *} > ${at#* } ? ${at% *} : ${at#* })))" "$file"
    else row watch none "$file"
    fi
done

# --- sessions, as logind knows them: seats, locks, how long the desktop calls itself idle ---

flush() { if [ -n "$block" ]; then row session "$me" "$clock" "$up" $block; fi; block=; }
if have loginctl && sessions=$(limited loginctl --no-legend --no-pager list-sessions); then
    read -r up rest < /proc/uptime
    ids=$(printf '%s\n' "$sessions" | while read -r id rest; do echo "$id"; done | head -n 50)
    block=
    [ -n "$ids" ] || row session none
    [ -z "$ids" ] || limited loginctl --no-pager show-session -p Id -p User -p Name -p Seat -p TTY -p Type -p Class \
        -p Remote -p State -p IdleHint -p IdleSinceHint -p LockedHint -p TimestampMonotonic $ids | {
        while IFS= read -r line; do
            if [ -n "$line" ]; then block="$block $line"; else flush; fi
        done
        flush
    }
else
    row session unknown
fi

# --- the screen: only where it is one of our own account's, nobody else may ask ---

idle=
if have xprintidle; then idle=$(DISPLAY=${DISPLAY:-:0} limited xprintidle)
elif have xssstate; then idle=$(DISPLAY=${DISPLAY:-:0} limited xssstate -i)
fi
if [ -z "$idle" ] && [ -S "/run/user/$me/bus" ] && have gdbus; then
    idle=$(DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$me/bus limited gdbus call --session \
        --dest org.gnome.Mutter.IdleMonitor --object-path /org/gnome/Mutter/IdleMonitor/Core \
        --method org.gnome.Mutter.IdleMonitor.GetIdletime)
    idle=${idle#(uint64 } idle=${idle%,)}
fi
case $idle in
'' | *[!0-9]*) ;;
*) row screen "$((idle / 1000))" ;;
esac

# --- processors and GPUs: what others use of them ---

read -r load rest < /proc/loadavg && row load "$load"
count() {
    { read -r up rest; } < /proc/uptime
    { read -r line; } < /proc/stat
    printf '%s\n' "up $up" "$line"
    cat /proc/[0-9]*/stat
    echo /
}
if [ "$window" != 0 ]; then
    everyone
    if [ "$gpu" = 1 ] && have nvidia-smi; then
        apps=$(limited nvidia-smi --query-compute-apps=pid --format=csv,noheader) || gpu=unknown
    else
        gpu=0 apps=
    fi
    [ "$gpu" != unknown ] || row gpu unknown
    {
        count
        sleep "$window"
        count
        grep -sac 'DISTRIBUTE_ATTEMPT=' /proc/[0-9]*/environ
        echo /
        printf '%s\n' "$apps"
    } 3>&- | awk -v above="$above" -v wrappers="$wrappers" -v gpu="$gpu" '
        # Ours: what carries a tag, what is in the session of a wrapper or descends from one, and what serves our own
        # connection, as sshd does that brings results home.
        function ours_of(p,    id, i, grew) {
            id = above
            while (((p, id) in name) && name[p, id] !~ /^\(sshd/ && parent[p, id] > 1) id = parent[p, id]
            if (((p, id) in name) && name[p, id] ~ /^\(sshd/) ours[p, id] = 1; else ours[p, above] = 1
            for (i = 1; i <= n[p]; i++)
                if ((list[p, i] in tagged) || (list[p, i] in wrapper) || (session[p, list[p, i]] in wrapper))
                    ours[p, list[p, i]] = 1
            do {
                grew = 0
                for (i = 1; i <= n[p]; i++) {
                    id = list[p, i]
                    if (!((p, id) in ours) && ((p, parent[p, id]) in ours)) { ours[p, id] = 1; grew = 1 }
                }
            } while (grew)
            for (i = 1; i <= n[p]; i++) if ((p, list[p, i]) in ours) used[p] += time[p, list[p, i]]
        }
        BEGIN { split(wrappers, each, " "); for (i in each) wrapper[each[i]] = 1 }
        $0 == "/" { phase++; record = ""; next }
        phase == 2 { i = split($0, part, ":"); if (part[i] > 0) { split($0, part, "/"); tagged[part[3]] = 1 }; next }
        phase == 3 { if ($1 > 0) app[$1] = 1; next }
        $1 == "up" { up[phase + 0] = $2; next }
        $1 == "cpu" { busy[phase + 0] = $2 + $3 + $4 + $7 + $8; next }
        # A name may hold newlines: a record is whole once the fields after its last parenthesis are there.
        { record = (record == "") ? $0 : record "\n" $0 }
        match(record, /.*\) [A-Za-z] -?[0-9]+ [0-9]+ [0-9]+ .*/) {
            p = phase + 0; id = record; sub(/ .*/, "", id)
            rest = record; sub(/.*\) /, "", rest); split(rest, field, " ")
            name[p, id] = substr(record, length(id) + 2); parent[p, id] = field[2]; session[p, id] = field[4]
            time[p, id] = field[12] + field[13] + field[14] + field[15]     # and of the children it has seen end
            list[p, ++n[p]] = id
            record = ""
        }
        END {
            ours_of(0); ours_of(1)
            # The time of one that ended is in that of who waited for it, or nobody knows it: then we do not guess.
            for (i = 1; i <= n[0]; i++) {
                id = list[0, i]
                if (!((0, id) in ours) || ((1, id) in name)) continue
                while (((0, id) in name) && !((1, id) in name)) id = parent[0, id]
                if (!((1, id) in ours)) lost = 1
            }
            others = busy[1] - busy[0] - (used[1] - used[0])
            if (up[1] <= up[0] || lost) print "cpu unknown"
            else print "cpu", int((others > 0 ? others : 0) / (up[1] - up[0]) + 0.5)
            foreign = 0
            for (id in app) if (!((1, id) in ours)) foreign++
            if (gpu == 1) print "gpu", foreign
        }' | while read -r kind amount; do row "$kind" "$amount"; done
fi
say done "$number"
