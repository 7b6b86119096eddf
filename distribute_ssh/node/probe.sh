# Prints what a node is and has, for probe.py to read: `key<TAB>value`, one a line, `end` last.
# Runs in dash, bash and busybox ash, reads no stdin, needs no tool: what is missing is left out.
# In front of it stand: limit= wanted_scratch= python= ; behind it: the site's own probes and `finish`.

exec </dev/null 2>/dev/null
LC_ALL=C; export LC_ALL
umask 077
unset OMP_NUM_THREADS OMP_THREAD_LIMIT # nproc would obey them, and many an rc file sets them to 1
mark="probe-$$-ended"

say() { printf '%s\t%.400s\n' "$1" "$2"; } # one write each, far below PIPE_BUF: lines of parallel questions never mix
have() { command -v "$1" >/dev/null; }

# KILL, because GNU timeout then ends the whole process group; where there is no usable timeout, a watchdog of our own.
if timeout -s KILL 5 true; then
    limited() { timeout -s KILL "$limit" "$@"; }
else
    limited() {
        "$@" &
        job=$!
        { trap 'kill "$nap"; exit' TERM; sleep "$limit" & nap=$!; wait "$nap" && kill -s KILL "$job"; } >/dev/null &
        dog=$!
        wait "$job"; status=$?
        kill "$dog"
        return "$status"
    }
fi

# ask NAME COMMAND: `out NAME LINE` for each line of its stdout, then `exit NAME STATUS`.
# The reader stops at the status and not at the end of the pipe: a command that leaves something running in the
# background holds the pipe open for as long as that lives.
ask() {
    { limited /bin/sh -c "$2"; printf '\n%s %s\n' "$mark" "$?"; } | {
        count=0
        while IFS= read -r line; do
            case $line in
            "$mark "*) printf 'exit\t%s\t%s\n' "$1" "${line#"$mark "}"; break ;;
            ?*) count=$((count + 1)); [ "$count" -gt 256 ] || printf 'out\t%s\t%.400s\n' "$1" "$line" ;;
            esac
        done
    } &
}

finish() {
    wait
    say clock "$(date +%s)" # last: the closer to our reading it, the smaller the error
    say end ok
}

# --- who and what ---

uid=$(id -u)
user=$(id -un)
say hostname "$(uname -n)"
say uid "$uid"
say user "$user"
say kernel "$(uname -sr)"
say machine "$(uname -m)"
if read -r line </proc/sys/kernel/random/boot_id; then say boot_id "$line"; fi
if line=$(getent passwd "$uid") || line=$(grep "^$user:" /etc/passwd); then say login_shell "${line##*:}"; fi
while IFS= read -r line; do
    case $line in PRETTY_NAME=*) say os "${line#*=}" ;; esac
done </etc/os-release

# --- how strong ---

threads=$(nproc || getconf _NPROCESSORS_ONLN || grep -c '^processor' /proc/cpuinfo)
say threads "$threads"
cores=$(lscpu -p=Core,Socket | grep '^[0-9]' | sort -u | grep -c .)
[ "${cores:-0}" -gt 0 ] || # socket and core of each thread, in pairs of lines
    cores=$(grep -E '^(physical id|core id)' /proc/cpuinfo | paste -d , - - | sort -u | grep -c .)
say cores "$cores"
while read -r key line; do
    case $key in MemTotal: | MemAvailable:) say "$key" "$line" ;; esac
done </proc/meminfo
if read -r line </proc/loadavg; then say load "${line%% *}"; fi

# --- where to work ---

# A room of ours that is there already wins: a disk that is full or read-only today must not make us look for running
# jobs in another place. A room that somebody else made under our name, or that is a link, is none of ours.
find_scratch() {
    room=distribute-$uid
    case $wanted_scratch in
    '') mkdir -p "$HOME/.cache"; set -- /scratch /var/tmp "$HOME/.cache" ;;
    '~') set -- "$HOME" ;;
    '~/'*) set -- "$HOME/${wanted_scratch#'~/'}" ;;
    *) set -- "$wanted_scratch" ;;
    esac
    for scratch; do
        if [ -d "$scratch/$room" ] && [ ! -h "$scratch/$room" ] && [ -O "$scratch/$room" ]; then return 0; fi
    done
    for scratch; do
        [ -e "$scratch/$room" ] || [ -h "$scratch/$room" ] && continue
        if mkdir "$scratch/.$room.$$"; then rmdir "$scratch/.$room.$$"; return 0; fi
    done
    if [ -z "$wanted_scratch" ]; then say no_scratch "none of /scratch, /var/tmp and ~/.cache can be written to"
    elif [ ! -d "$1" ]; then say no_scratch "$1 is not there"
    elif [ -e "$1/$room" ] || [ -h "$1/$room" ]; then say no_scratch "$1/$room belongs to somebody else"
    else say no_scratch "$1 cannot be written to"
    fi
    return 1
}

if find_scratch; then
    say scratch "$scratch"
    say df "$(df -Pk "$scratch" | tail -n 1)"
    say df_inodes "$(df -Pi "$scratch" | tail -n 1)"
    real=$(cd "$scratch" && pwd -P)
    while read -r line where type options; do # every mount on the way to it; the last of the longest is the one
        where=${where%/} # not inside the pattern: bash 5.2 takes "${where%/}"/* for something else where it is empty
        case $real/ in "$where"/*) say mount "$type ${where:-/} $options" ;; esac
    done </proc/self/mounts
    try=$scratch/.$room.$$
    if have chmod && have rm && mkdir "$try"; then
        if printf '#!/bin/sh\nexit 0\n' >"$try/run" && chmod 700 "$try/run"; then
            "$try/run"
            say scratch_exec "$?"
        fi
        rm -f "$try/run"
        rmdir "$try"
    fi
fi

# --- what ends or keeps what we leave running ---

if [ -d /run/systemd/system ]; then
    say systemd 1
    if [ -e "/var/lib/systemd/linger/$user" ]; then say linger 1; else say linger 0; fi
    if [ -S "/run/user/$uid/systemd/private" ]; then say user_manager 1; else say user_manager 0; fi
    for line in KillUserProcesses RemoveIPC; do
        ask "$line" "busctl get-property org.freedesktop.login1 /org/freedesktop/login1 \
            org.freedesktop.login1.Manager $line"
    done
else
    say systemd 0
fi
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    say cgroup 2
    while IFS=: read -r _ line where; do
        if [ -z "$line" ] && [ -w "/sys/fs/cgroup$where/cgroup.procs" ]; then say cgroup_writable 1; fi
    done </proc/self/cgroup
elif [ -d /sys/fs/cgroup ]; then
    say cgroup 1
fi

# --- which tools ---

export python
# shellcheck disable=SC2016 # they are expanded by the shell that runs them
{
    ask python3 'exec "$python" -c "import sys; print(\"%d.%d.%d\" % sys.version_info[:3])"'
    ask gcc 'exec gcc --version'
    ask gfortran 'exec gfortran --version'
    ask make 'exec make --version'
    ask cmake 'exec cmake --version'
    ask mpi 'command -v mpirun >/dev/null || command -v mpiexec >/dev/null || exit 127
        out=$(mpirun --version || mpiexec --version) && printf "%s\n" "$out" | grep "[0-9]"' # MPICH: not in the first line
    ask apptainer 'exec apptainer --version'
    ask singularity 'exec singularity --version'
    ask tar 'exec tar --version'
    ask awk 'exec awk "BEGIN { print 6 * 7 }"'
    ask sha256sum 'exec sha256sum /dev/null'
    ask find_printf 'exec find / -maxdepth 0 -printf "%p %s\n"'
    ask setsid_fork 'exec setsid -f true'
}
if have nvidia-smi; then
    ask nvidia-smi 'exec nvidia-smi --query-gpu=index,uuid,memory.total,name --format=csv,noheader,nounits'
    ask nvidia-list 'exec nvidia-smi -L'
fi
for line in rocm-smi /opt/rocm/bin/rocm-smi; do
    have "$line" || continue # its JSON is one long line
    ask rocm-smi "out=\$($line --showproductname --showmeminfo vram --showuniqueid --json) || exit
        printf '%s\n' \"\$out\" | fold -w 300"
    break
done

# --- the site's own probes follow ---
