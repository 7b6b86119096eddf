# From the power button to sshd. Called `sh boot.sh FOLDER NAME ROOT` as the first process of network, PID, mount, UTS and IPC
# namespaces of its own; FOLDER holds the machine's disk (upper), its /var/tmp (scratch) and its boot_id.
set -eu
umask 022
folder=$1 name=$2 root=$3

# /proc is still the computer's: our number and start time as seen from there, which together name us for ever.
read -r stat < /proc/self/stat
echo "$stat" > "$folder/first.new"
mv "$folder/first.new" "$folder/first"
# Whoever switches us off takes `on` away and then looks for `first`: one of us two sees what the other did.
[ -e "$folder/on" ]

hostname "$name"
ip link set lo up

mount -t overlay -o "lowerdir=$root,upperdir=$folder/upper,workdir=$folder/work" "$name" "$folder/root"
cd "$folder/root"

# Devices of its own: with the computer's, all machines would share terminals and /dev/shm.
mount -t tmpfs -o mode=755,size=1m dev dev
for each in null zero full random urandom tty; do
    [ -e "/dev/$each" ] || continue
    : > "dev/$each"
    mount --bind "/dev/$each" "dev/$each"
done
# Open to everybody, as udev makes it where there is one: apptainer mounts its images by it.
if [ -e /dev/fuse ]; then mknod dev/fuse c 10 229; chmod 666 dev/fuse; fi
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,mode=620,gid=5,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr

mount -t proc proc proc
mount -t sysfs sysfs sys
mount --bind "$folder/boot_id" proc/sys/kernel/random/boot_id
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount --bind "$folder/scratch" var/tmp
# The window of the tests, at the same path inside and outside; no disk of the machine's, so it is never full.
window=${folder%/*}/window
mkdir -p ".$window"
mount --bind "$window" ".$window"
mkdir run/sshd run/computer
: > run/utmp

# Not chroot: below one the kernel refuses user namespaces, which apptainer needs.
pivot_root . run/computer
cd /
umount -l /run/computer
rmdir /run/computer
exec "$(command -v sshd)" -D -e -f /etc/ssh/lab_sshd_config
