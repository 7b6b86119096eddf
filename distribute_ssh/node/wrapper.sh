# The wrapper of one attempt: claims it, runs it, records its end. Called: sh wrapper.sh TOKEN, in our folder, in a
# session of its own, fd 3 = the resident's event channel (which may be gone: the record comes first, the event second).
# $DISTRIBUTE_NONCE and $DISTRIBUTE_BOOT come by environment, never by argv, which every user of the machine can read.
trap '' HUP PIPE                                # a dead channel must not end us before the record is written
nonce=$DISTRIBUTE_NONCE boot=$DISTRIBUTE_BOOT
unset DISTRIBUTE_NONCE DISTRIBUTE_BOOT
home=attempts/$1

# The claim. Whoever makes this folder owns the one execution; anyone who comes later leaves. Made here and not by the
# resident: a resident killed between claim and start would leave an attempt that never runs and cannot be started.
mkdir "$home/claim" 2>/dev/null || exit 0

read -r stat < "/proc/$$/stat"                  # our own name is "sh": one line, no parenthesis to trip over
set -- "$1" ${stat##*) }
echo "$$ ${21} $boot" > "$home/pid"             # pid, start time, boot: together they name a process for ever
printf '%s started %s\n' "$nonce" "$1" >&3

slot=. save=
stage() { :; }
payload() { exit 126; }
settle() { :; }
. "./$home/run.sh"

if ( stage ) > "$home/stage" 2>&1 3>&-; then
    # Default signals, our own stdin and log, and no way to the event channel.
    ( trap - HUP PIPE; payload ) < /dev/null > "$home/output" 2>&1 3>&-
    rc=$?
    if [ "$rc" = 0 ]; then ( settle ) >> "$home/output" 2>&1 3>&- || rc=$?; fi
    if [ -n "$save" ]; then mv "$slot/distribute_save" "$home/save" 2>/dev/null; fi
else
    mv "$home/stage" "$home/output"
    rc=stage
fi
# The end is recorded in a *name*: one rename, atomic, and it needs no free block on a full disk.
mv "$home/pid" "$home/exit.$rc" && printf '%s exit %s %s\n' "$nonce" "$1" "$rc" >&3
