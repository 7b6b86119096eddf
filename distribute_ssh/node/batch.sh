# What Slurm starts on a compute node: our folder is there, and the wrapper does the rest. Called: sh batch.sh TOKEN LIB,
# in our folder.
#
# At a time limit, or when it is cancelled, Slurm tells all its processes to end, us too: who goes on for a moment, with
# the wrapper, records the end.
trap : TERM
token=$1 lib=$2
home=attempts/$token
read -r boot < /proc/sys/kernel/random/boot_id
. "./$lib/members.sh"

# Nobody pauses a cluster, so that the moment of the warning is known beforehand and the head need not be there.
timer=
set -- $(sed -n '/^#/!q; s/^#WARN //p' "$home/run.sh")
if [ $# = 2 ]; then
    (
        trap 'kill "$sleeper"; exit' TERM
        sleep "$1" & sleeper=$!
        wait "$sleeper"
        warn "$token" "$2"
    ) &
    timer=$!
fi

# No one listens to events here: the record in the folder is what is looked at.
DISTRIBUTE_NONCE=- DISTRIBUTE_BOOT=$boot sh -c 'trap : TERM; . "./$2/wrapper.sh"' sh "$token" "$lib" < /dev/null 3> /dev/null
[ -z "$timer" ] || kill "$timer" 2>/dev/null

# What the job ended with is what Slurm shows of it.
for record in "$home"/exit.*; do code=${record##*.}; done
case $code in *[!0-9]*) exit 1 ;; esac
exit "$code"
