# Stops every attempt on this node, answers, and is the timer of its lease from then on. Called: sh pause.sh NUMBER ID
# LIB, in our folder, in a session of its own, fd 3 = the event channel, which may be gone. NUMBER 0: nobody waits for
# an answer; a timer that was killed is replaced.
trap '' HUP INT TERM PIPE
nonce=$DISTRIBUTE_NONCE boot=$DISTRIBUTE_BOOT
unset DISTRIBUTE_NONCE DISTRIBUTE_BOOT
number=$1 mine=$2
. "$3/members.sh"
. "$3/lease.sh"
say() { printf '%s %s\n' "$nonce" "$*" >&3; }

if [ "$number" = 0 ] && identity "timer.$mine"; then exit 0; fi
read -r stat < "/proc/$$/stat"
set -- ${stat##*) }
# On a full disk into the file that is there, which takes no room: a timer without a name gets company at every look.
{ echo "$$ ${20} $boot" > "timer.$mine.$$" && mv "timer.$mine.$$" "timer.$mine"; } || {
    rm -f "timer.$mine.$$"
    echo "$$ ${20} $boot" 1<> "timer.$mine"
}

obey 3>&-
# What starts the ranks of MPI stops those on other machines when it is told by TSTP, which it has to be awake for.
launchers=$(members "$tokens" "$wrappers" 3>&- | while read -r each was kind; do [ -z "$kind" ] || echo "$each"; done)
if [ -n "$launchers" ] && standing; then
    kill -s CONT $launchers
    kill -s TSTP $launchers
    sleep 1
    obey 3>&-
fi
if [ "$number" != 0 ]; then
    if standing; then
        for each in $(moving "$tokens" "$wrappers" 3>&-); do
            command=$(tr '\0\n' '  ' < "/proc/$each/cmdline" | tr -cd ' -~' | cut -c 1-100)
            say moves "$number" "$mine" "$each" "$command"
        done
    fi
    tell_lease "$number"
    say done "$number"
fi

# A look costs as much as a hundred of these rounds: ever more rarely.
uptime; looked=$now pause=2
while [ -e "lease.$mine" ]; do
    { read -r until rest < "lease.$mine"; } 2>/dev/null || break
    uptime
    if [ "$now" -ge "$until" ]; then
        if end_lease "$mine"; then groups CONT; obey 3>&-; say resumed "$mine"; fi
        break
    elif [ "$((now - looked))" -ge "$pause" ]; then
        obey 3>&-
        looked=$now pause=$((pause < 120 ? pause * 2 : pause))
    fi
    left=$((until - now))
    sleep "$((left < 5 ? left : 5))"
done
rm -f "timer.$mine"
