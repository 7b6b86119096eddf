# Whether an image can be run on this node, and what lies behind the failure of a job in it: a sentence as last line of
# the output, which is what `explain` shows. Sourced by the scripts of apptainer batches, in the wrapper.

told() { printf 'distribute: %s\n' "$1"; }

# look_into IMAGE NAME PROGRAM MOUNT...: false if no job can run in it. Makes the file `hidden`, of mounts that hide
# something. --contain: the home and the /tmp of this node, which are in every container, are not part of the image.
look_into() {
    image=$1 name=$2 program=$3
    shift 3
    command -v "$program" > /dev/null || { told "there is no $program on this node's PATH"; return 127; }
    # Run inside the image by its own shell, behind it the folders to be mounted: a line for each thing to be told. It is
    # set here, behind the `env` of the batch, in which anything may be called like it.
    question='
if [ ! -e /scif/apps/distribute/scif/runscript ]; then
    apps=
    for each in /scif/apps/*; do if [ -e "$each" ]; then apps="$apps ${each##*/}"; fi; done
    echo "apps$apps"
fi
for place; do
    if [ ! -d "$place" ]; then
        if [ -e "$place" ]; then echo "file $place"; fi
        continue
    fi
    for each in "$place"/* "$place"/.[!.]*; do
        if [ -e "$each" ]; then echo "hides $place"; break; fi
    done
done'
    $gently "$program" exec --contain "$image" /bin/sh -c "$question" look "$@" > seen 2> said || {
        cat said
        [ -z "$(tail -c 1 said)" ] || echo # it ends with a colour, where it dies early
        told "$(refusal)"
        return 1
    }
    cat said
    bad=0
    while read -r what rest; do
        case $what in
        apps)
            bad=1
            told "$name has no app 'distribute'${rest:+ (only: $rest)}; its definition file needs %apprun distribute" ;;
        file)
            bad=1
            told "required_mounts: $rest is a file in $name; only a folder can be mounted there" ;;
        hides)
            echo "$rest" >> hidden
            told "required_mounts: jobs will not see what $name has in $rest, but an empty folder" ;;
        esac
    done < seen
    return "$bad"
}

# refusal: what apptainer 1.4 says, in the words of somebody who wrote a jobs file.
refusal() {
    case $(cat said) in
    *'image format not recognized'* | *'squashfs image'* | *'SQUASHFS superblock'*)
        echo "$name cannot be read as an image: it is damaged, cut short, or no image at all" ;;
    *'user namespace'*)
        echo "$program may not run images on this node: it needs user namespaces for everybody, or apptainer-suid" ;;
    *'/bin/sh: no such file'*)
        echo "$name has no /bin/sh, which its app 'distribute' needs" ;;
    *'o space left on device'*)
        echo "there is no room on this node to unpack $name" ;;
    *)
        echo "$program cannot run $name on this node: $(grep -e FATAL -e ERROR said | tail -n 1)" ;;
    esac
}

# explain_failure OUTPUT HIDDEN: adds what the last words of a job that failed do not say.
explain_failure() {
    last=$(tail -c 4096 "$1" | tail -n 20)
    case $last in
    *'Terminating squashfuse_ll'*) # the words that follow it would be the last ones
        line=$(printf '%s\n' "$last" | sed '/Terminating squashfuse_ll/,$d' | tail -n 1)
        told "it left processes running in the container; the last that it printed: $line" ;;
    esac
    line=$(printf '%s\n' "$last" | grep 'ead-only file system' | tail -n 1)
    if [ -n "$line" ]; then
        told "an image cannot be written to; list in required_mounts where jobs write, or use /distribute_save ($line)"
    fi
    [ ! -e "$2" ] || while IFS= read -r place; do
        line=$(printf '%s\n' "$last" | grep -e 'o such file' -e 'not found' | grep -F "$place" | tail -n 1)
        [ -z "$line" ] || told "jobs do not see what the image has in $place: it is one of the required_mounts ($line)"
    done < "$2"
}
