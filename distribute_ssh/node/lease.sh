# The lease of this node: a pause with an end, kept here so that it ends whoever else is gone. Sourced after members.sh,
# in our folder, with $boot set.
#
# A lease is a file lease.ID of one line: "UNTIL SINCE SAID BOOT EPOCH WHO WHY". The first three are seconds of uptime,
# which no change of a clock touches and which go on while the machine sleeps; EPOCH is UNTIL for people at the desk.
# It counts from SAID on: who says it again ends the one before, and SINCE tells people when the first of them began.
# Whoever renames it away ends it, so that it is ended once. Before that it writes down, once for every attempt, what
# the lease took from it: whoever finds no lease finds all of what was taken.

# detached SCRIPT WORD...: in a session of its own. `setsid -f` leaves INT and QUIT at their defaults and no zombie here;
# `&`, where there is nothing better, ignores both for life.
detached() {
    setsid -f /bin/sh "$@" < /dev/null 3>&3 && return
    if command -v setsid > /dev/null; then setsid /bin/sh "$@" < /dev/null 3>&3 & else /bin/sh "$@" < /dev/null 3>&3 & fi
} 2>/dev/null

uptime() { read -r now idle < /proc/uptime; now=${now%%.*}; }

# standing: sets $id $until $since $said $who $why of the lease that stands, and $now; false where none does.
standing() {
    for file in lease.*; do
        { read -r until since said of epoch who why < "$file"; } 2>/dev/null || continue
        uptime
        id=${file#lease.}
        # In some containers the clock begins anew while the boot stays: what was said later than now is of before.
        [ "$of" = "$boot" ] && [ "$said" -le "$now" ] && [ "$now" -lt "$until" ] && return 0
    done
    return 1
}

# tell_lease NUMBER: the row of an answer that says which lease stands.
tell_lease() {
    if standing; then say lease "$1" "$id" "$((until - now))" "$((now - since))" "$who" "$why"; fi
}

# is_later AGE: whether the lease that stands was said less than AGE seconds ago.
is_later() { standing && [ "$((now - said))" -lt "$1" ]; }

# begin_lease ID SECONDS WHO WHY: puts it in the place of those there are; false where there is no room. One that stands
# already is extended: what it takes goes on to count from when it was said first.
begin_lease() {
    uptime; from=$now at=$now others=
    # Those that are there before ours: of two that begin in one moment, neither shall end the other.
    for file in lease.*; do
        [ ! -e "$file" ] || [ "$file" = "lease.$1" ] || others="$others ${file#lease.}"
    done
    if standing; then
        from=$since
        if [ "$id" = "$1" ]; then at=$said; fi
    fi
    printf '%s\n' "$((now + $2)) $from $at $boot $(($(date +%s) + $2)) $3 $4" > "new.$$" &&
        mv "new.$$" "lease.$1" || { rm -f "new.$$"; return 1; }
    for other in $others; do end_lease "$other"; done
}

# end_lease ID: true for whoever ends it; what it took from every attempt is written down, as no time limit counts it.
end_lease() {
    of=
    { read -r until since said of rest < "lease.$1"; } 2>/dev/null
    uptime
    for file in attempts/*/pid; do
        taken=${file%pid}paused.$1
        [ "$of" = "$boot" ] && [ ! -e "$taken" ] && identity "$file" || continue
        from=$said began=0
        { read -r began < "${file%pid}began"; } 2>/dev/null
        [ "$began" -le "$from" ] || from=$began
        echo "$((now - from))" > "${file%pid}new.$$" && mv "${file%pid}new.$$" "$taken"
    done
    mv "lease.$1" "over.$1" 2>/dev/null || return 1
    rm -f "over.$1" "timer.$1"
}

# groups SIGNAL: to the process groups of all wrappers, while the wrappers go on. It needs no process of its own, which
# on a machine with a hundred busy ones would wait a second for its turn.
groups() {
    for file in attempts/*/pid; do
        [ ! -e "${file%pid}ending" ] && identity "$file" || continue
        kill -s "$1" -- "-$pid"
        kill -s CONT "$pid"
    done 2>/dev/null
}

# everyone: sets $tokens and $wrappers of all attempts, but for those that are being killed.
everyone() {
    tokens= wrappers=
    for folder in attempts/*; do
        [ -e "$folder/claim" ] && [ ! -e "$folder/ending" ] || continue
        tokens="$tokens ${folder##*/}"
        if identity "$folder/pid"; then wrappers="$wrappers $pid"; fi
    done
}

# obey: makes all processes what the leases say, also where another request overtakes this one.
obey() {
    while :; do
        everyone
        if standing; then
            stop_all "$tokens" "$wrappers"
            standing && return
        else
            signal_all CONT "$tokens" "$wrappers"
            standing || return
        fi
    done
}
