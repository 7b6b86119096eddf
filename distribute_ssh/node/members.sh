# Finding every process of some attempts, and signalling them until nothing new is found. Sourced, with $boot set.
#
# A process belongs to an attempt if it carries its tag in its environment (survives setsid and double forks), is in
# the wrapper's session, or descends from one that belongs. What escapes: a process that cleared its environment AND
# left the session AND lost its parent. A wrapper itself never counts: it has to live to record the end.
#
# Attempts are named by two lists of words: TOKENS, and WRAPPERS, the process numbers of those wrappers that live.

# identity PIDFILE: sets $pid; true if that very process still lives (a zombie does not). Needs no process of its own:
# it is asked for every attempt at every look.
identity() {
    pid= began= boot_then= stat=
    { read -r pid began boot_then < "$1"; } 2>/dev/null
    [ -n "$boot_then" ] && [ "$boot_then" = "$boot" ] || return 1
    { while IFS= read -r line; do stat="$stat $line"; done < "/proc/$pid/stat"; } 2>/dev/null
    [ -n "$stat" ] || return 1
    set -- ${stat##*) }                         # after the LAST parenthesis: a process may be named "a) R 1 1"
    [ "${20}" = "$began" ] && [ "$1" != Z ]
}

# members TOKENS WRAPPERS: one "PID STATE" a line, and a third word, `launcher`, for what starts the ranks of MPI.
members() {
    { printf '%s\n' $1 /; grep -sao 'DISTRIBUTE_ATTEMPT=[a-z0-9-]*' /proc/[0-9]*/environ; echo; cat /proc/[0-9]*/stat; } 2>/dev/null |
    awk -v wrappers="$2" -v self="$$" '
        BEGIN { n = split(wrappers, each, " "); for (i = 1; i <= n; i++) if (each[i] + 0 > 0) wrapper[each[i]] = 1 }
        !named && $0 == "/" { named = 1; next }
        !named { token[$0] = 1; next }
        !listed && $0 == "" { listed = 1; next }
        !listed { split($0, part, "/"); if (substr($0, index($0, "=") + 1) in token) mine[part[3]] = 1; next }
        # A name may hold newlines: a record is whole once the fields after its last parenthesis are there.
        { record = (record == "") ? $0 : record "\n" $0 }
        match(record, /.*\) [A-Za-z] -?[0-9]+ [0-9]+ [0-9]+ .*/) {
            id = record; sub(/ .*/, "", id)
            rest = record; sub(/.*\) /, "", rest); split(rest, field, " ")
            state[id] = field[1]; parent[id] = field[2]; session[id] = field[4]
            if (record ~ /^[0-9]+ \((mpirun|mpiexec|mpiexec\.hydra|orterun|prterun|srun)\) /) kind[id] = " launcher"
            record = ""
        }
        END {
            for (id in parent) if (session[id] in wrapper) mine[id] = 1
            do {
                grew = 0
                for (id in parent)
                    if (!(id in mine) && ((parent[id] in mine) || (parent[id] in wrapper))) { mine[id] = 1; grew = 1 }
            } while (grew)
            for (id in mine)
                if ((id in state) && !(id in wrapper) && id != self && state[id] != "Z" && state[id] != "X")
                    print id, state[id] kind[id]
        }'
}

# moving TOKENS WRAPPERS: the process numbers of those members that are not stopped.
moving() {
    members "$1" "$2" | while read -r id was kind; do [ "$was" = T ] || [ "$was" = t ] || echo "$id"; done
}

# stop_all TOKENS WRAPPERS: STOP to a fixpoint, so that nothing can fork away while we look.
stop_all() {
    round=0 ids=
    while [ "$round" -lt 20 ]; do
        last=$ids
        ids=$(moving "$1" "$2")
        [ -n "$ids" ] || return 0
        kill -s STOP $ids 2>/dev/null
        # Still the same: it waits for its turn among many, or for a disk.
        if [ "$ids" = "$last" ]; then sleep 0.05 2>/dev/null; fi
        round=$((round + 1))
    done
    return 1
}

# signal_all SIGNAL TOKENS WRAPPERS
signal_all() {
    ids=$(members "$2" "$3" | while read -r id was; do echo "$id"; done)
    if [ -n "$ids" ]; then kill -s "$1" $ids 2>/dev/null; fi
}

# kill_all TOKENS WRAPPERS GRACE: ends every member; prints how many are left (0 is the proof).
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

# warn TOKEN SIGNAL: to the first process of its payload, once: the one child of the wrapper that carries our tag.
warn() {
    identity "attempts/$1/pid" && [ ! -e "attempts/$1/warned" ] || return
    for status in $(grep -ls "^PPid:.$pid\$" /proc/[0-9]*/status); do
        main=${status%/status}
        grep -qsaF "DISTRIBUTE_ATTEMPT=$1" "$main/environ" || continue
        : > "attempts/$1/warned"
        kill -s "$2" "${main##*/}"
    done
}
