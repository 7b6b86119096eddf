# The lease of this node: a pause with an end, kept here so that it ends whoever else is gone. Sourced after members.sh,
# in our folder, with $boot set.
#
# A lease is a file lease.ID of one line: "UNTIL SINCE SAID BOOT EPOCH WHO WHY". The first three are seconds of uptime,
# which no change of a clock touches and which go on while the machine sleeps; EPOCH is UNTIL for people at the desk.
# Whoever renames it away ends it, so that it is ended once. While one replaces another, both may stand for a moment.

uptime() { read -r now idle < /proc/uptime; now=${now%%.*}; }

# standing: sets $id $until $since $said $who $why of the lease that stands, and $now; false where none does.
standing() {
    for file in lease.*; do
        { read -r until since said of epoch who why < "$file"; } 2>/dev/null || continue
        uptime
        id=${file#lease.}
        [ "$of" = "$boot" ] && [ "$now" -lt "$until" ] && return 0
    done
    return 1
}

# tell_lease NUMBER: the row of an answer that says which lease stands.
tell_lease() {
    if standing; then say lease "$1" "$id" "$((until - now))" "$((now - since))" "$who" "$why"; fi
}

# is_later AGE: whether the lease that stands was said less than AGE seconds ago.
is_later() { standing && [ "$((now - said))" -lt "$1" ]; }

# write_lease ID SINCE SECONDS WHO WHY
write_lease() {
    uptime
    printf '%s\n' "$((now + $3)) $2 $now $boot $(($(date +%s) + $3)) $4 $5" > "new.$$" &&
        mv "new.$$" "lease.$1" || { rm -f "new.$$"; return 1; }
}

# begin_lease ID SECONDS WHO WHY: puts it in the place of those there are; false where there is no room.
begin_lease() {
    uptime; from=$now before=
    if standing; then from=$since before=$id; fi
    write_lease "$1" "$from" "$2" "$3" "$4" || return 1
    for file in lease.*; do
        old=${file#lease.}
        if [ "$old" = "$1" ]; then continue
        elif [ "$old" != "$before" ]; then end_lease "$old"
        elif mv "$file" "over.$old"; then rm -f "over.$old" "timer.$old"
        else write_lease "$1" "$now" "$2" "$3" "$4"     # it was ended, and counted, in this very moment
        fi
    done
}

# count_paused FOLDER: sets $paused to the seconds that this attempt was paused in all, by the lease of $since too.
count_paused() {
    paused=0 from=$since began=0
    { read -r paused < "$1/paused"; read -r began < "$1/began"; } 2>/dev/null
    [ "$began" -le "$from" ] || from=$began
    paused=$((paused + now - from))
}

# end_lease ID: true for whoever ends it; what it took from every attempt is written down, as no time limit counts it.
end_lease() {
    mv "lease.$1" "over.$1" 2>/dev/null || return 1
    of=
    { read -r until since said of epoch who why < "over.$1"; } 2>/dev/null
    uptime
    for file in attempts/*/pid; do
        [ "$of" = "$boot" ] && identity "$file" || continue
        count_paused "${file%/pid}"
        echo "$paused" > "$file.$$" && mv "$file.$$" "${file%pid}paused"
    done
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
