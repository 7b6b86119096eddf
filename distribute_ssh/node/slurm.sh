# What Slurm is asked on its login machine: to run attempts, what became of them, to end them. Called: sh slurm.sh NUMBER
# LIB VERB WORD..., in our folder, which all its nodes share, with fd 3 = the resident's event channel.
#
# attempts/TOKEN/member says "NAME INDEX" of the Slurm job that is to run it, written before that is submitted: so
# whoever comes later (the head was killed, the line broke) asks Slurm for that name instead of submitting again. Should
# there be two all the same, one of them gets the wrapper's claim.
trap '' HUP PIPE
nonce=$DISTRIBUTE_NONCE
unset DISTRIBUTE_NONCE DISTRIBUTE_BOOT              # jobs get our environment
# What an account may have set for the commands it types: it would hide rows, or turn one job into several.
unset SQUEUE_ACCOUNT SQUEUE_ARRAY SQUEUE_NAMES SQUEUE_PARTITION SQUEUE_QOS SQUEUE_SORT SQUEUE_STATES SQUEUE_USERS
unset SBATCH_ARRAY_INX SBATCH_TEST_ONLY SBATCH_WAIT SBATCH_IMMEDIATE SQUEUE_LICENSES SQUEUE_CLUSTERS
number=$1 lib=$2 verb=$3
shift 3
say() { printf '%s %s\n' "$nonce" "$*" >&3; }

# Where Slurm is not in the PATH of a shell that nobody logged in to, it is in that of one that somebody did.
command -v sbatch > /dev/null || PATH=$PATH:$(exec 3>&- 9>&-; "${SHELL:-/bin/sh}" -lc 'printf "\n%s" "$PATH"' < /dev/null 2>/dev/null | tail -n 1)

# rows: "NAME|INDEX|ID|STATE|NODES|REASON" of all that Slurm knows of this account; false where it does not answer.
# What a site has put in squeue's place may print its own trouble and end well: that is no list without our jobs.
rows() {
    all_rows=$(timeout 60 squeue -h -r -a -u "$(id -un)" --states=all -o '%j|%K|%i|%T|%N|%r' 3>&- 9>&-) || return 1
    case $all_rows in ?*) echo "$all_rows" | grep '|[^|]*|[0-9][^|]*|[A-Z_]*|[^|]*|' ;; esac
}

# past NAME...: the same of what Slurm has forgotten and its accounting has not, if there is one.
past() {
    from=$(date -d '30 days ago' +%Y-%m-%d 2>/dev/null) || from=now-30days
    timeout 45 sacct -n -P -X -D -S "$from" --name="$(IFS=,; echo "$*")" -o JobName,JobID,State,NodeList 3>&- 9>&- 2>/dev/null |
        awk -F'|' '{ n = split($2, part, "_"); print $1 "|" (n > 1 ? part[2] : "N/A") "|" $2 "|" $3 "|" $4 "|accounting" }'
}

# join: of lines "TOKEN NAME INDEX ID", a line "/", and rows: "TOKEN ID STATE NODES REASON..." of each; STATE is NONE
# where no row is there, and ID what it was submitted as ("-": perhaps it was not).
join() {
    awk -F'|' '
        !listed && $0 == "/" { listed = 1; next }
        !listed { split($0, part, " "); key = part[2] " " part[3]; token[key] = part[1]; id[key] = part[4]; next }
        {
            key = $1 " " ($2 ~ /^[0-9]+$/ ? $2 : 1)
            if (!(key in token)) next
            found[key] = 1
            state = $4; sub(/ .*/, "", state)       # accounting says "CANCELLED by 1000"
            print token[key], $3, state, ($5 == "" ? "-" : substr($5, 1, 100)), ($6 == "" ? "-" : substr($6, 1, 100))
        }
        END { for (key in token) if (!(key in found)) print token[key], (id[key] == "" ? "-" : id[key]), "NONE - -" }'
}

# told TOKEN...: what Slurm says of them, joined; false where it does not answer.
told() {
    all=$(
        for token; do
            name= index= id=
            { read -r name index < "attempts/$token/member"; } 2>/dev/null
            { read -r id < "attempts/$token/submitted"; } 2>/dev/null
            [ -z "$index" ] || echo "$token $name $index $id"
        done
    )
    [ -n "$all" ] || return 0
    now=$(rows) || return 1
    first=$(printf '%s\n/\n%s\n' "$all" "$now" | join)
    gone=$(echo "$first" | awk '$3 == "NONE" && $2 != "-" { print $1 }')
    if [ -n "$gone" ] && command -v sacct > /dev/null; then
        names=$(for token in $gone; do read -r name index < "attempts/$token/member" && echo "$name"; done | sort -u)
        of=$(echo "$all" | while read -r token rest; do case " "$(echo $gone)" " in *" $token "*) echo "$token $rest" ;; esac; done)
        echo "$first" | awk '!($3 == "NONE" && $2 != "-")'
        printf '%s\n/\n%s\n' "$of" "$(past $names)" | join
    else
        echo "$first"
    fi
}

# live TEXT: of what was told, "TOKEN ID" of all that Slurm still has.
over='COMPLETED|CANCELLED|FAILED|TIMEOUT|NODE_FAIL|PREEMPTED|BOOT_FAIL|DEADLINE|OUT_OF_MEMORY|REVOKED|NONE'
live() { echo "$1" | awk -v over="^($over)\$" 'NF && $3 !~ over { print $1, $2 }'; }

# take TOKEN: nobody begins it from here on.
take() { mkdir -p "attempts/$1" && mkdir "attempts/$1/claim" 2>/dev/null && echo > "attempts/$1/never-started"; }

# submit TOKEN...: as one job, or as the tasks of one array; all want the same of Slurm.
submit() {
    # One after the other: who was here before us may be about to submit. Where a disk has no locks, the claim is left.
    exec 9>> room
    timeout 300 flock 9 2>/dev/null
    fresh= again=
    for token; do
        [ -s "attempts/$token/run.sh" ] && [ ! -e "attempts/$token/claim" ] || continue
        if [ -e "attempts/$token/member" ]; then again="$again $token"; else fresh="$fresh $token"; fi
    done
    if [ -n "$again" ]; then
        what=$(told $again) || { say fail "$number" silent; return; }
        for token in $again; do
            id=$(echo "$what" | awk -v token="$token" '$1 == token && $3 != "NONE" { print $2; exit }')
            if [ -n "$id" ]; then echo "$id" > "attempts/$token/submitted"; else fresh="$fresh $token"; fi
        done
    fi
    set -- $fresh
    [ $# -gt 0 ] || { say done "$number"; return; }
    first=$1 index=0 array=
    for token; do
        index=$((index + 1))
        rm -f "attempts/$token/submitted"
        echo "$first $index" > "attempts/$token/member" || { say fail "$number" full; return; }
    done
    [ $# = 1 ] || array=--array=1-$#
    root=$(pwd | sed "s/'/'\\\\''/g")
    id=$({
        echo '#!/bin/sh'
        sed -n '/^#/!q; /^#SBATCH /p' "attempts/$first/run.sh"
        echo "set -- $*"
        echo 'shift $((${SLURM_ARRAY_TASK_ID:-1} - 1))'
        echo "cd '$root' || exit 66"
        echo "exec /bin/sh $lib/batch.sh \"\$1\" $lib"
    } | timeout 120 sbatch --parsable --job-name="$first" --output=/dev/null --chdir=/ --no-requeue --export=ALL $array \
        3>&- 9>&- 2> "attempts/$first/sbatch")
    status=$?
    if [ "$status" = 0 ]; then
        for token; do echo "${id%%;*}" > "attempts/$token/submitted"; done
        say done "$number" "${id%%;*}"
    elif ! what=$(told "$first"); then
        say fail "$number" silent                   # nobody knows whether it arrived
    elif [ -n "$(live "$what")" ]; then
        say done "$number"                          # it did, only the answer did not
    elif [ "$status" -ge 124 ]; then
        say fail "$number" silent                   # sbatch hung, or was killed
    else
        say refusal "$number" "$first" "$(tr -cs '[:print:]' ' ' < "attempts/$first/sbatch" | tail -c 300)"
        say fail "$number" "$status"
    fi
}

# refuse TEXT TOKEN...: ends attempts that Slurm will not run; the text is what they printed.
refuse() {
    text=$1
    shift
    for token; do
        ids=$(live "$(told "$token")" | sed 's/.* //')
        [ -z "$ids" ] || scancel $ids 3>&-
        take "$token" || continue                   # it has begun in this moment
        printf '%b' "$text" > "attempts/$token/output"
        mkdir "attempts/$token/exit.refused"
    done
    say done "$number"
}

# leave_slot TOKEN: on a node that Slurm gave up it may go on, out of everybody's sight. What it writes then goes away
# with its own folder, and not into that of the next job in its slot, which is made anew.
leave_slot() {
    slot=$(sed -n '/^slot=/{s///p; q;}' "attempts/$1/run.sh")
    [ -d "${slot%/*}/pristine" ] && mv "$slot" "attempts/$1/slot"
}

# cancel TOKEN...: ends them, wherever they run, and names those that Slurm has not ended after five minutes. It gives
# their processes the time between TERM and KILL that its site allows. All in one question: there may be hundreds.
cancel() {
    for token; do take "$token"; : > "attempts/$token/ending"; done
    waited=0 asked=-60
    while
        left=silent
        if what=$(told "$@"); then left=$(live "$what"); fi
        [ -n "$left" ] && [ "$waited" -lt 300 ]
    do
        # A second TERM would disturb who is just ending properly; a request that was lost has to be made again.
        if [ "$left" != silent ] && [ "$((waited - asked))" -ge 60 ]; then
            scancel $(echo "$left" | sed 's/.* //') 3>&-
            asked=$waited
        fi
        sleep 1
        waited=$((waited + 1))
    done
    [ "$left" != silent ] || { say fail "$number" silent; return; }
    for token; do
        case $left in *"$token "*) say kept "$number" "$token" ;; esac
        case $what in *"$token "*) ! echo "$what" | grep -q "^$token [^ ]* NODE_FAIL " || leave_slot "$token" ;; esac
    done
    say done "$number"
}

case $verb in
see) # see QUEUE
    set -- attempts/"$1"-*/member
    for path; do shift; path=${path#*/}; set -- "$@" "${path%/member}"; done
    if what=$(told "$@"); then
        [ -z "$what" ] || echo "$what" | while read -r line; do say slurm "$number" "$line"; done
        say done "$number"
    else
        say fail "$number" silent
    fi ;;
submit) submit "$@" ;;
refuse) refuse "$@" ;;
cancel) cancel "$@" ;;
esac
