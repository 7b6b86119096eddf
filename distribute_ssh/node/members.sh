# Finding every process of an attempt, and signalling them until nothing new is found. Sourced.
#
# A process belongs to attempt TOKEN if it carries the tag in its environment (survives setsid and double forks), is in
# the wrapper's session, or descends from one that belongs. What escapes: a process that cleared its environment AND
# left the session AND lost its parent. The wrapper itself never counts: it has to live to record the end.

# identity PIDFILE: sets $pid; true if that very process still lives (a zombie does not).
identity() {
    pid= began= boot_then=
    { read -r pid began boot_then < "$1"; } 2>/dev/null
    [ -n "$boot_then" ] && [ "$boot_then" = "$boot" ] || return 1
    stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 1
    set -- ${stat##*) }                         # after the LAST parenthesis: a process may be named "a) R 1 1"
    [ "${20}" = "$began" ] && [ "$1" != Z ]
}

# members TOKEN WRAPPER_PID: one "PID STATE" a line. WRAPPER_PID 0: the wrapper is gone.
members() {
    { grep -lsa "DISTRIBUTE_ATTEMPT=$1" /proc/[0-9]*/environ; echo; cat /proc/[0-9]*/stat; } 2>/dev/null |
    awk -v wrapper="$2" -v self="$$" '
        !listed && $0 == "" { listed = 1; next }
        !listed { split($0, part, "/"); mine[part[3]] = 1; next }
        # A name may hold newlines: a record is whole once the fields after its last parenthesis are there.
        { record = (record == "") ? $0 : record "\n" $0 }
        match(record, /.*\) [A-Za-z] -?[0-9]+ [0-9]+ [0-9]+ .*/) {
            id = record; sub(/ .*/, "", id)
            rest = record; sub(/.*\) /, "", rest); split(rest, field, " ")
            state[id] = field[1]; parent[id] = field[2]; session[id] = field[4]
            record = ""
        }
        END {
            if (wrapper + 0 > 0) for (id in parent) if (session[id] == wrapper) mine[id] = 1
            do {
                grew = 0
                for (id in parent)
                    if (!(id in mine) && ((parent[id] in mine) || (wrapper + 0 > 0 && parent[id] == wrapper))) {
                        mine[id] = 1; grew = 1
                    }
            } while (grew)
            for (id in mine)
                if ((id in state) && id != wrapper && id != self && state[id] != "Z" && state[id] != "X")
                    print id, state[id]
        }'
}

# stop_all TOKEN WRAPPER_PID: STOP to a fixpoint, so that nothing can fork away while we look.
stop_all() {
    round=0
    while [ "$round" -lt 20 ]; do
        moving=$(members "$1" "$2" | while read -r id was; do [ "$was" = T ] || [ "$was" = t ] || echo "$id"; done)
        [ -n "$moving" ] || return 0
        kill -s STOP $moving 2>/dev/null
        round=$((round + 1))
    done
    return 1
}

# signal_all SIGNAL TOKEN WRAPPER_PID
signal_all() {
    ids=$(members "$2" "$3" | while read -r id was; do echo "$id"; done)
    if [ -n "$ids" ]; then kill -s "$1" $ids 2>/dev/null; fi
}

# kill_all TOKEN WRAPPER_PID GRACE: ends every member; prints how many are left (0 is the proof).
# STOP first, then TERM, then CONT: a TERM to a stopped process waits for CONT, and nobody sees a sibling die and respawns it.
kill_all() {
    stop_all "$1" "$2"
    signal_all TERM "$1" "$2"
    signal_all CONT "$1" "$2"
    waited=0
    while [ "$waited" -lt "$(($3 * 10))" ]; do
        [ -n "$(members "$1" "$2")" ] || break
        sleep 0.1 2>/dev/null || { sleep 1; waited=$((waited + 9)); }
        waited=$((waited + 1))
    done
    round=0
    while [ -n "$(members "$1" "$2")" ] && [ "$round" -lt 20 ]; do
        stop_all "$1" "$2"
        signal_all KILL "$1" "$2"
        round=$((round + 1))
    done
    members "$1" "$2" | wc -l
}
