# What there is on this machine now, for readiness.py to read: said just before a job starts that was promised a part of
# it. Runs in our folder, reads no stdin, decides nothing. In front of it stand:
#   queue    the first part of our attempts' names: what carries another's is somebody else's
#   gpus     which tools to ask for GPUs, of `nvidia amd`; each takes a while, so only where GPUs are given
#   window   seconds over which processors are watched; 0: they are not
exec </dev/null 2>/dev/null
LC_ALL=C; export LC_ALL
say() { printf '%s\n' "$*"; }
have() { command -v "$1" >/dev/null; }
if have timeout; then limited() { timeout -s KILL 15 "$@"; }; else limited() { "$@"; }; fi
wants() { case " $gpus " in *" $1 "*) return 0 ;; esac; return 1; }

while read -r name amount rest; do
    case $name in MemTotal: | MemAvailable:) say "$name" "$amount" ;; esac
done </proc/meminfo
say df "$(df -Pk . | tail -n 1)"

# The tools of a vendor side by side: a driver that sleeps takes a second for each question.
ask() { name=$1; shift; { out=$(limited "$@"); status=$?; printf '%s\n' "$out" | sed "s/^/$name /"; say "exit $name $status"; } & }
rocm=rocm-smi
have rocm-smi || rocm=/opt/rocm/bin/rocm-smi
gpu_answers=$(
    if wants nvidia; then
        ask nvidia-there nvidia-smi --query-gpu=uuid --format=csv,noheader
        ask nvidia-used nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory,process_name --format=csv,noheader,nounits
    fi
    if wants amd; then
        ask amd-there "$rocm" --showuniqueid --json
        ask amd-used "$rocm" --showpidgpus
    fi
    wait
)
[ -z "$gpus" ] || printf '%s\n' "$gpu_answers"

# Every process, twice; then which are ours: what carries a tag of this queue, or descends from a wrapper of it.
clocks() { read -r up rest </proc/uptime; say "up $up"; cat /proc/[0-9]*/stat; say /; }
{
    clocks
    if [ "$window" != 0 ]; then sleep "$window" || sleep 1; clocks; fi
    say //
    grep -saol "DISTRIBUTE_ATTEMPT=$queue-" /proc/[0-9]*/environ
    say //
    for file in attempts/"$queue"-*/pid; do cat "$file"; done
} | awk -v page="$(getconf PAGESIZE || echo 4096)" -v self="$$" '
    $0 == "/" { round++; record = ""; next }
    $0 == "//" { part++; next }
    part == 1 { split($0, piece, "/"); tagged[piece[3]] = 1; next }
    part == 2 { if ($1 > 0) wrapper[$1] = $2; next }
    $1 == "up" { up[round + 0] = $2; next }
    # A name may hold newlines: a record is whole once the fields after its last parenthesis are there.
    { record = (record == "") ? $0 : record "\n" $0 }
    match(record, /.*\) [A-Za-z] -?[0-9]+ [0-9]+ [0-9]+ .*/) {
        r = round + 0; id = record; sub(/ .*/, "", id)
        rest = record; sub(/.*\) /, "", rest); n = split(rest, field, " ")
        there[r, id] = 1; list[r, ++count[r]] = id; parent[id] = field[2]; began[id] = field[20]
        rss[id] = field[22]
        time[r, id] = field[12] + field[13] + field[14] + field[15]     # and of the children it has seen end
        name[id] = record; sub(/^[0-9]+ \(/, "", name[id]); sub(/\) [A-Za-z] -?[0-9].*/, "", name[id])
        gsub(/[^ -~]/, "?", name[id])
        record = ""
    }
    END {
        last = (1 in count) ? 1 : 0
        for (id in tagged) ours[id] = 1
        for (id in wrapper) if (began[id] == wrapper[id]) ours[id] = 1
        ours[self] = 1
        do {
            grew = 0
            for (id in parent) if (!(id in ours) && (parent[id] in ours)) { ours[id] = 1; grew = 1 }
        } while (grew)
        for (i = 1; i <= count[last]; i++) {
            id = list[last, i]
            if (id in ours) { pages += rss[id]; print "mine", id } else print "process", id, name[id]
        }
        print "ours", int(pages * page / 1024)
        if (last == 0) exit
        # The sums, not each process: the time of one that ended is in that of who waited for it.
        for (r = 0; r <= 1; r++) for (i = 1; i <= count[r]; i++) if (!(list[r, i] in ours)) used[r] += time[r, list[r, i]]
        if (up[1] > up[0]) print "others", (used[1] > used[0]) ? int((used[1] - used[0]) / (up[1] - up[0]) + 0.5) : 0
    }' | while read -r word id rest; do
    case $word in
    mine | process) # of all processes only those that hold a GPU are told, and whose they are
        case $gpu_answers in *"$id"*) ;; *) continue ;; esac
        [ "$word" = mine ] || rest="$(stat -c %U "/proc/$id") $rest" ;;
    esac
    say "$word" "$id" "$rest"
done
say end ok
