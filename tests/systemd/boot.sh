#!/usr/bin/env bash
# Boots a systemd of its own over a copy of this machine's files: boot.sh WORK LOCKFS UNITS
#
# WORK is an empty directory, LOCKFS the program under test, UNITS the directory with its units; without the two the
# machine has nothing of lockfs, and packages may start services. Everything that the booted machine changes is in memory and goes with it, but what it writes to /mnt/outside, which is WORK. It has
# namespaces of its own for mounts, processes, network, host name and control groups; the process that this script
# becomes is the parent of its init.
# Two stages: outside, and inside of the new namespaces.
set -euo pipefail
work=$1 lockfs=${2-} units=${3-}

if [ "${4-}" != inside ]; then
    # systemd wants the root of a tree of control groups (version 2) for itself.
    tree=/sys/fs/cgroup
    [ -e $tree/cgroup.procs ] || tree=$tree/unified
    mkdir "$tree/lockfs-test-$$"
    echo "$tree/lockfs-test-$$" >"$work/cgroup"
    echo $$ >"$tree/lockfs-test-$$/cgroup.procs"
    exec unshare --cgroup --mount --pid --fork --uts --ipc --net --propagation private \
        bash "$0" "$work" "$lockfs" "$units" inside
fi

mkdir "$work/memory"
mount -t tmpfs -o mode=755 tmpfs "$work/memory"
root=$work/memory/root
mkdir "$root" "$work/memory/upper" "$work/memory/workdir"
mount -t overlay -o "lowerdir=/,upperdir=$work/memory/upper,workdir=$work/memory/workdir" overlay "$root"
for place in run tmp dev sys mnt srv; do mount -t tmpfs -o mode=755 tmpfs "$root/$place"; done
chmod 1777 "$root/tmp"
mount -t proc proc "$root/proc"
mkdir -p "$root"/{sys/fs/cgroup,dev/pts,dev/shm,mnt/outside,run/systemd}
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
cp -a /dev/{null,zero,full,random,urandom,tty,fuse,autofs} "$root/dev/"
# As udev has it.
chmod 666 "$root/dev/fuse"
mount --bind "$work" "$root/mnt/outside"

# Nothing of the machine's own is mounted or started: what is left is systemd, its journal, and lockfs.
system=$root/etc/systemd/system
rm -rf "$system" "$root"/etc/systemd/{user,generator*} "$root"/var/lib/lockfs* "$root/etc/lockfs" "$root/var/log/journal"
mkdir "$system"
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
for unit in "$root"/lib/systemd/system/{multi-user,sysinit,sockets,timers,local-fs,remote-fs}.target.wants/*; do
    case ${unit##*/} in
    systemd-journald* | '*') ;;
    *) ln -sf /dev/null "$system/${unit##*/}" ;;
    esac
done
for unit in systemd-remount-fs.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    systemd-user-sessions.service systemd-tmpfiles-setup-dev.service redis-server.service dbus.service dbus.socket; do
    ln -sf /dev/null "$system/$unit"
done
ln -sf /lib/systemd/system/multi-user.target "$system/default.target"
echo "dev:x:4711:4711::/home/dev:/bin/sh" >>"$root/etc/passwd"
echo "dev:x:4711:" >>"$root/etc/group"
install -d -o 4711 -g 4711 "$root/home/dev"

rm -f "$root"/usr/bin/lockfs "$root"/sbin/mount{,.fuse}.lockfs "$root"/usr/lib/systemd/{system,user}/lockfs*.service
if [ -n "$lockfs" ]; then
    # What a package installs.
    : >"$root/usr/bin/lockfs"
    mount --bind "$lockfs" "$root/usr/bin/lockfs"
    for name in mount.lockfs mount.fuse.lockfs; do ln -sf /usr/bin/lockfs "$root/sbin/$name"; done
    install -d "$root/usr/lib/systemd/user"
    install -m 644 "$units"/*.service "$root/usr/lib/systemd/system/"
    install -m 644 "$units"/user/*.service "$root/usr/lib/systemd/user/"
else
    # As on a machine that is no container; and that it has no /locks, whoever runs the tests.
    rm -f "$root/usr/sbin/policy-rc.d"
    rmdir "$root/locks" 2>/dev/null || true
    # The index of all manuals is made anew with each package otherwise, which takes seconds.
    rm -f "$root/var/lib/man-db/auto-update"
fi

cd "$root"
mkdir -p old
pivot_root . old
umount -l old
# As systemd makes it where it is not in a container: what a process mounts in a namespace of its own can come back.
mount --make-rshared /
exec env -i container=lockfs-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=journal --show-status=0
