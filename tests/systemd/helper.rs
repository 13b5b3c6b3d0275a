//! `mount.lockfs`: mount(8), fstab(5), automount, remount, umount(8).

use crate::machine::{DEV, Machine};

/// A line of fstab(5).
fn with_line(options: &str) -> Machine {
    let machine = Machine::boot();
    machine.write("/etc/fstab", &format!("lockfs /srv/locks lockfs {options} 0 0\n"));
    machine.run("mkdir /srv/locks; systemctl daemon-reload");
    machine
}

#[test]
fn a_line_of_fstab_is_mounted_once_and_unmounted() {
    let machine = with_line("_netdev,nofail,ttl=1h,x-note=ours");
    machine.run("mount -a");
    let mounts = machine.run("cat /proc/self/mounts");
    machine.run("mount -a");
    assert_eq!(machine.run("cat /proc/self/mounts"), mounts);
    assert!(mounts.contains("\nlockfs /srv/locks fuse.lockfs rw,nosuid,nodev,"), "{mounts}");
    let status = machine.run("cat /srv/locks/.lockfs/status");
    assert!(status.contains("\nttl: 1h\n"), "{status}");
    machine.run("umount /srv/locks; systemctl start srv-locks.mount; touch /srv/locks/x");
    assert!(machine.is_mounted("/srv/locks"));
    machine.run("systemctl stop srv-locks.mount");
    assert!(!machine.is_mounted("/srv/locks"));
    // The next mount can follow at once, and a lazy end waits for nobody.
    machine.run("mount /srv/locks; lockfs umount /srv/locks; mount /srv/locks; umount -l /srv/locks");
    assert!(!machine.is_mounted("/srv/locks"));
}

#[test]
fn a_mount_is_made_at_the_first_use() {
    let mut machine = with_line("noauto,_netdev,nofail,x-systemd.automount");
    machine.run("systemctl start srv-locks.automount");
    assert!(!machine.is_mounted("/srv/locks"));
    machine.run(&format!("{DEV} touch /srv/locks/x"));
    assert!(machine.is_mounted("/srv/locks"));
    machine.run("systemctl stop srv-locks.mount");
    assert!(!machine.is_mounted("/srv/locks"));
    assert_eq!(machine.run("ls /srv/locks"), "x");
    // It comes back after a crash too, without being asked.
    machine.run("kill -KILL $(sed -n 's/^pid: //p' /srv/locks/.lockfs/status)");
    machine.eventually("the dead mount is seen", |machine| !machine.path("/srv/locks/x").exists());
    machine.run("systemctl stop srv-locks.mount");
    assert_eq!(machine.run("ls /srv/locks"), "x");
}

#[test]
fn a_remount_changes_what_the_kernel_keeps_and_refuses_the_rest() {
    let machine = with_line("noauto,ttl=1h");
    let options = || machine.run("findmnt -n -o OPTIONS /srv/locks");
    machine.run("mount /srv/locks; touch /srv/locks/x");
    machine.run("mount -o remount,ro,noexec /srv/locks");
    assert!(options().starts_with("ro,nosuid,nodev,noexec,"), "{}", options());
    assert!(machine.fails("touch /srv/locks/y").1.contains("Read-only file system"));
    machine.run("mount -o remount,rw /srv/locks; touch /srv/locks/y");
    assert!(options().starts_with("rw,nosuid,nodev,"), "{}", options());
    let (code, said) = machine.fails("mount -o remount,ttl=2h /srv/locks");
    assert_eq!(code, 1);
    assert!(said.starts_with("mount.lockfs: a remount can't change ttl: umount /srv/locks"), "{said}");
    // By hand as well, and where fstab has no line for it.
    machine.run(": >/etc/fstab; mount -o remount,ro /srv/locks");
    assert!(options().starts_with("ro,nosuid,nodev,"), "{}", options());
    let (code, said) = machine.fails("mount.lockfs lockfs /srv/elsewhere -o remount,ro");
    assert_eq!((code, said.as_str()), (32, "mount.lockfs: no lockfs is mounted on /srv/elsewhere"));
}

#[test]
fn the_helper_speaks_as_mount_expects() {
    let machine = Machine::boot();
    machine.run("mkdir /srv/locks");
    let (code, said) = machine.fails("mount.lockfs lockfs /srv/locks -o tll=5m");
    assert!(code == 1 && said.starts_with("mount.lockfs: unknown mount option 'tll=5m'"), "{code} {said}");
    assert_eq!(machine.fails("mount.lockfs lockfs").0, 1);
    assert_eq!(machine.fails("mount.lockfs lockfs /srv/locks -o foreground").0, 1);
    let (code, said) = machine.fails("mount -t lockfs lockfs /srv/nowhere/at/all");
    assert!(code == 32 && said.contains("/srv/nowhere/at/all"), "{code} {said}");
    machine.run("env -i /sbin/mount.lockfs ours /srv/locks -sfnv -o rw,colour=red");
    assert!(!machine.is_mounted("/srv/locks"));
    machine.run("env -i /sbin/mount.lockfs ours /srv/locks -n -s -o rw,colour=red -t lockfs");
    assert_eq!(machine.run("findmnt -n -o SOURCE /srv/locks"), "ours");
    let (code, said) = machine.fails("mount -t lockfs ours /srv/locks");
    assert!(code == 32 && said.contains("is mounted on /srv/locks already"), "{code} {said}");
    // Into the mount namespace of somebody else.
    machine.run("mkdir /srv/theirs");
    let apart = "unshare --mount --propagation private sh -c 'echo $$ >/run/apart; exec sleep 1000' & \
                 until [ -s /run/apart ]; do :; done; mount -N $(cat /run/apart) -t lockfs ours /srv/theirs \
                 -o data-dir=/var/lib/theirs && nsenter -t $(cat /run/apart) -m findmnt -n -o SOURCE /srv/theirs";
    assert_eq!(machine.run(&format!("{apart}; kill $(cat /run/apart)")), "ours");
    assert!(!machine.is_mounted("/srv/theirs"));
}

#[test]
fn a_line_with_user_is_for_a_user_to_mount_and_unmount() {
    let machine = Machine::boot();
    machine.write("/etc/fstab", "lockfs /home/dev/locks lockfs noauto,user,_netdev 0 0\n");
    machine.run(&format!("{DEV} mkdir /home/dev/locks; {DEV} mount /home/dev/locks"));
    machine.run(&format!("{DEV} touch /home/dev/locks/x"));
    let mounts = machine.run("cat /proc/self/mounts");
    assert!(mounts.contains("lockfs /home/dev/locks fuse.lockfs rw,nosuid,nodev,noexec,"), "{mounts}");
    machine.run(&format!("{DEV} umount /home/dev/locks"));
    assert!(!machine.is_mounted("/home/dev/locks"));
}
