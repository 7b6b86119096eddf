# Lets every attempt on this node go on, and answers. Called: sh resume.sh NUMBER LIB, in our folder, fd 3 = the event
# channel.
trap '' HUP INT TERM PIPE
nonce=$DISTRIBUTE_NONCE boot=$DISTRIBUTE_BOOT
unset DISTRIBUTE_NONCE DISTRIBUTE_BOOT
. "$2/members.sh"
. "$2/lease.sh"
say() { printf '%s %s\n' "$nonce" "$*" >&3; }

obey 3>&-
tell_lease "$1"
say done "$1"
