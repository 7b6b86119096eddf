# One big input goes from node to node, by a key that opens nothing but this one input, for seconds.
# On the node that gives:  sh fetch.sh open ID TYPE KEY ROOT LIB SHA256 SIZE   and   sh fetch.sh close [ID]
#                          sh fetch.sh give FILES SHA256 SIZE    sshd starts this for whoever has the key
# On the node that takes:  sh fetch.sh take QUEUE SHA256 SIZE ID USER HOST PORT, in our folder; stdin: private key, #KEY,
#                          a line of known_hosts
umask 077
unset CDPATH                                    # `cd files` would go to another folder of that name

# A file of our own, which sshd reads beside authorized_keys unless it was told otherwise: what people put into theirs
# is never touched. Where it is not read, or is somebody's, nothing is shared.
keys=$HOME/.ssh/authorized_keys2
mark=' distribute-fetch-'

# It may be renamed while we look.
bytes() { wc -c 2>/dev/null < "$1" || echo 0; }

open_door() {
    [ -d "$HOME/.ssh" ] && [ ! -L "$keys" ] || exit 4
    if [ -e "$keys" ] && grep -v "$mark" "$keys" 2>/dev/null | grep -q .; then exit 4; fi
    unset TZ                                    # sshd reads the time as the machine's own
    until=$(($(date +%s) + 120))
    day=$(date -d "@$until" +%Y%m%d%H%M%S) || exit 4
    command="exec /bin/sh $4/$5/fetch.sh give $4/files $6 $7"
    # One write at the end of the file: another transfer's line is not lost by it.
    printf 'restrict,expiry-time="%s",command="%s" %s %s%s%s-%s\n' \
        "$day" "$command" "$2" "$3" "$mark" "$until" "$1" >> "$keys" || {
        [ -s "$keys" ] || rm -f "$keys"         # a full disk takes the file, and not the line
        exit 4
    }
}

# Also takes away what a head that was killed left behind. Two at once may lose a line of each other's: that transfer
# is refused then, and goes through the head.
close_door() {
    for each in files/.fetch-*; do              # of transfers that were ended without mercy
        [ -d "$each" ] && [ -z "$(find "$each" -mmin -10)" ] && rm -rf "$each"
    done
    [ -f "$keys" ] && [ ! -L "$keys" ] && grep -q "$mark" "$keys" || exit 0
    now=$(date +%s)
    left=$(
        while IFS= read -r line || [ -n "$line" ]; do
            word=${line##*"$mark"}
            if [ "$word" != "$line" ]; then
                [ "${word#*-}" != "$1" ] && [ "${word%%-*}" -gt "$now" ] 2>/dev/null || continue
            fi
            printf '%s\n' "$line"
        done < "$keys"
    )
    if [ -z "$left" ]; then
        rm -f "$keys"
    elif [ "$left" != "$(cat "$keys")" ]; then
        { printf '%s\n' "$left" > "$keys.$$" && mv -f "$keys.$$" "$keys"; } || rm -f "$keys.$$"
    fi
}

# From the byte on that was asked for. What is itself on its way here is given as it comes: whichever file is longest
# begins like the others.
give() {
    cd "$1" || exit 7
    at=$SSH_ORIGINAL_COMMAND idle=0
    case $at in '' | *[!0-9]* | ????????????????*) exit 3 ;; esac
    printf '\n%s\n' "$2"                        # what start-up files print comes before this line
    while [ "$at" -lt "$3" ]; do
        have=0
        for each in "$2" .part-*-"$2" .fetch-*/"$2"; do
            [ -f "$each" ] && size=$(bytes "$each") && [ "$size" -gt "$have" ] && have=$size longest=$each
        done 2>/dev/null
        # Opened once: it may be renamed meanwhile, to where the next round finds it.
        is_open=
        if [ "$have" -gt "$at" ] && { is_open=1; tail -c "+$((at + 1))" | head -c "$((have - at))"; } < "$longest"; then
            at=$have idle=0
            continue
        fi 2>/dev/null
        [ -z "$is_open" ] || exit 6             # nobody takes it any more
        idle=$((idle + 1))
        [ "$idle" -le 100 ] || exit 5           # twenty seconds without a byte
        sleep 0.2 2>/dev/null || sleep 1
    done
}

# What comes is written into a folder of this transfer's own: whoever comes next, after a line was lost, does not write
# into the same file. In the end what came goes where the head goes on from.
take() {
    sha=$2 size=$3 home=.fetch-$4 part=.part-$1-$2 over=
    command -v ssh > /dev/null || exit 13
    cd files && mkdir "$home" || exit 7
    trap '' HUP PIPE                            # a head that is gone does not end it
    trap 'exit 12' INT TERM
    trap leave EXIT
    while IFS= read -r line && [ "$line" != '#KEY' ]; do printf '%s\n' "$line"; done > "$home/key"
    IFS= read -r line && printf '%s\n' "$line" > "$home/known"
    [ ! -f "$part" ] || mv "$part" "$home/$sha"
    : >> "$home/$sha"
    there=$(bytes "$home/$sha")
    if [ "$there" -gt "$size" ]; then : > "$home/$sha"; there=0; fi
    exec 3>&1
    # Who gives is not trusted with our disk, neither by what it gives nor by what it complains of.
    { { log_in "$5" "$6" "$7" "$there" < /dev/null 2>&1 >&4 | head -c 4096 > "$home/said" 4>&-; } 4>&1 | receive
      echo "$?" > "$home/over"; } &
    until [ -s "$home/over" ]; do
        sleep 0.2 2>/dev/null || sleep 1
        echo "at $(bytes "$home/$sha")"
    done 2>/dev/null
    over=1
    if [ "$(cat "$home/over")" != 0 ]; then echo "said $(tail -n 1 "$home/said")"; exit 10; fi
    [ "$(bytes "$home/$sha")" = "$size" ] || exit 11
    sum=$(sha256sum < "$home/$sha")
    if [ "${sum%% *}" != "$sha" ]; then rm -f "$home/$sha"; exit 9; fi
    mv -f "$home/$sha" "$sha"
}

log_in() {
    ssh -F /dev/null -T -x -a -i "$home/key" -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes \
        -o PreferredAuthentications=publickey -o StrictHostKeyChecking=yes -o HostKeyAlias=giver \
        -o UserKnownHostsFile="$home/known" -o GlobalKnownHostsFile=/dev/null -o UpdateHostKeys=no \
        -o ControlPath=none -o ClearAllForwardings=yes -o Compression=no -o LogLevel=ERROR \
        -o ConnectTimeout=5 -o ServerAliveInterval=5 -o ServerAliveCountMax=3 \
        -o Ciphers=aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr,aes128-ctr \
        -l "$1" -p "$3" -- "$2" "$4"
}

receive() {
    while IFS= read -r line; do
        if [ "$line" = "$sha" ]; then
            rm -f "$home/key"
            echo begun >&3
            ulimit -f "$((size / 512 + 1))"     # not `head -c`, which keeps back what others wait for
            exec cat >> "$home/$sha"
        fi
    done
    exit 1
}

leave() {
    trap '' TERM
    [ -n "$over" ] || kill -s TERM 0
    [ ! -f "$home/$sha" ] || mv -f "$home/$sha" "$part"
    rm -rf "$home"
}

verb=$1
shift
case $verb in
    open) open_door "$@" ;;
    close) close_door "${1:--}" ;;
    give) give "$@" ;;
    take) take "$@" ;;
esac
