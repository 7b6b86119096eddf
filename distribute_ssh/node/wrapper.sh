# The wrapper of one attempt: claims it, runs it, records its end. Called: sh wrapper.sh TOKEN LIB, in our folder, in a
# session of its own, fd 3 = the resident's event channel (which may be gone: the record comes first, the event second).
# $DISTRIBUTE_NONCE and $DISTRIBUTE_BOOT come by environment, never by argv, which every user of the machine can read.
trap '' HUP PIPE                                # a dead channel must not end us before the record is written
nonce=$DISTRIBUTE_NONCE boot=$DISTRIBUTE_BOOT
unset DISTRIBUTE_NONCE DISTRIBUTE_BOOT
home=attempts/$1 lib=$2
. "$lib/lease.sh"

# The claim. Whoever makes this folder owns the one execution; anyone who comes later leaves. Made here and not by the
# resident: a resident killed between claim and start would leave an attempt that never runs and cannot be started.
mkdir "$home/claim" 2>/dev/null || exit 0

read -r stat < "/proc/$$/stat"                  # our own name is "sh": one line, no parenthesis to trip over
set -- "$1" ${stat##*) }
# A kill that comes in this very moment may take the first for a process of the job.
move() { mv "$1" "$2" 2>/dev/null || mv "$1" "$2" 2>/dev/null; }
# The end is recorded in a *name*: one rename, atomic, and it needs no free block on a full disk.
record() { move "$home/pid" "$home/exit.$2" && printf '%s exit %s %s\n' "$nonce" "$1" "$2" >&3; }

# Before anybody can see that we are here: of a pause that began earlier, only the rest is ours.
if standing; then echo "$now" > "$home/began"; fi
# Pid, start time, boot: together they name a process for ever. What could not be found again must not run.
echo "$$ ${21} $boot" > "$home/pid" || { record "$1" stage; exit 0; }
printf '%s started %s\n' "$nonce" "$1" >&3

slot=. save=
stage() { :; }
payload() { exit 126; }
remark() { :; }
settles=
. "./$home/run.sh"

# Nothing begins while the node is paused. Nor when it is to be killed: who waits here has no process to be killed.
may_begin() {
    while standing && [ ! -e "$home/ending" ]; do sleep 1; done
    [ ! -e "$home/ending" ]
}

if may_begin && ( stage ) > "$home/stage" 2>&1 3>&-; then
    rc=143
    # Default signals, our own stdin and log, and no way to the event channel.
    may_begin && { ( trap - HUP PIPE; payload ) < /dev/null > "$home/output" 2>&1 3>&-; rc=$?; }
    if [ "$rc" = 0 ] && [ -n "$settles" ]; then ( settle ) >> "$home/output" 2>&1 3>&- || rc=$?; fi
    [ "$rc" = 0 ] || [ -e "$home/ending" ] || ( remark ) >> "$home/output" 2>&1 3>&-
    if [ -n "$save" ]; then move "$slot/distribute_save" "$home/save"; fi
else
    move "$home/stage" "$home/output"
    rc=stage
fi
record "$1" "$rc"
