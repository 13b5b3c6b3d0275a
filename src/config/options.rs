//! `-o` as mount(8) has it: a comma-separated list of switches and `key=value`.
//!
//! Every option is either one of ours, a flag of mount(2) that we pass on, or one that mount(8) means for
//! others (`x-*`, `_netdev`, `noauto` and so on, see fstab(5)); anything else is refused, not ignored.

use std::ffi::{OsStr, OsString};

use super::{ConfigError, KEYS, MountFlags};

/// What `-o` said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Settings, in the order in which they were said.
    pub(super) settings: Vec<(&'static str, OsString)>,
    /// The flags of mount(2).
    pub flags: MountFlags,
    /// `allow_other`, as fuse(8) has it.
    pub allow_other: bool,
    /// `X-mount.mkdir`, as mount(8) has it: the mode of the mountpoint, which is made where there is none.
    pub mkdir: Option<u32>,
}

/// The mode of a mountpoint that is made where `X-mount.mkdir` says none (mount(8)).
const MKDIR_MODE: u32 = 0o755;

impl MountOptions {
    /// Reads `lists`, one for each `-o`; what is said later wins.
    ///
    /// # Errors
    /// [`ConfigError`] for an option that neither lockfs nor mount(8) has.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Self, ConfigError> {
        let mut options = Self::default();
        for option in lists.into_iter().flat_map(|list| list.split(',')) {
            options.take(option.trim())?;
        }
        Ok(options)
    }

    /// The settings that were said, by name, in the order in which they were said.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        self.settings.iter().map(|(name, value)| (*name, value.as_os_str()))
    }

    fn take(&mut self, option: &str) -> Result<(), ConfigError> {
        let flags = &mut self.flags;
        match option {
            "ro" => flags.read_only = true,
            "rw" => flags.read_only = false,
            "noexec" => flags.noexec = true,
            "exec" => flags.noexec = false,
            "nosuid" => flags.nosuid = true,
            "suid" => flags.nosuid = false,
            "nodev" => flags.nodev = true,
            "dev" => flags.nodev = false,
            "noatime" => flags.noatime = true,
            "atime" => flags.noatime = false,
            "allow_other" => self.allow_other = true,
            "X-mount.mkdir" => self.mkdir = Some(MKDIR_MODE),
            // What lockfs does anyway, and what mount(8), fstab(5) and systemd.mount(5) mean for themselves.
            ""
            | "defaults"
            | "default_permissions"
            | "async"
            | "sync"
            | "dirsync"
            | "relatime"
            | "norelatime"
            | "strictatime"
            | "nostrictatime"
            | "lazytime"
            | "nolazytime"
            | "diratime"
            | "nodiratime"
            | "iversion"
            | "noiversion"
            | "nomand"
            | "silent"
            | "loud"
            | "auto"
            | "noauto"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "nofail"
            | "_netdev" => {}
            _ if is_for_others(option) => {}
            _ => return self.take_setting(option),
        }
        Ok(())
    }

    fn take_mode(&mut self, mode: &str) -> Result<(), ConfigError> {
        let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777);
        let what =
            || ConfigError::new("mount option X-mount.mkdir takes a mode in octal: X-mount.mkdir=0755");
        self.mkdir = Some(mode.ok_or_else(what)?);
        Ok(())
    }

    fn take_setting(&mut self, option: &str) -> Result<(), ConfigError> {
        if let Some(mode) = option.strip_prefix("X-mount.mkdir=") {
            return self.take_mode(mode);
        }
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        if let Some(key) = KEYS.iter().find(|key| key.name == name && !key.is_typed) {
            let name = key.env.join(" or ");
            let what = format!("{} is no mount option: set {name} in the environment or the file", key.name);
            return Err(ConfigError::new(what));
        }
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let ours: Vec<_> = KEYS.iter().filter(|key| key.is_typed).map(|key| key.name).collect();
            let ours = ours.join(" ");
            return Err(ConfigError::new(format!(
                "unknown mount option '{}': lockfs has ro noexec nosuid nodev noatime allow_other {ours}",
                option.escape_debug()
            )));
        };
        let is_switch = matches!(name, "debug" | "foreground");
        match (value, is_switch) {
            ("", true) if name == option => self.settings.push((key.name, "yes".into())),
            ("", _) => {
                return Err(ConfigError::new(format!("mount option {name} needs a value: {name}=...")));
            }
            _ => self.settings.push((key.name, value.into())),
        }
        Ok(())
    }
}

/// Whether an option is a word between others: of whoever reads fstab, a comment, or the user that mount(8)
/// notes for umount(8).
fn is_for_others(option: &str) -> bool {
    let is_named = ["x-", "X-", "comment=", "user="].iter().any(|start| option.starts_with(start));
    is_named && !option.starts_with("X-mount.mkdir=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<MountOptions, String> {
        MountOptions::parse([list]).map_err(|error| error.to_string())
    }

    #[test]
    fn what_fstab_says_to_others_is_let_through() {
        let list = "rw,noauto,_netdev,nofail,user,user=bob,defaults,x-systemd.automount,comment=a b,X-a";
        assert_eq!(parse(list), Ok(MountOptions::default()));
    }

    #[test]
    fn the_flags_of_mount_are_taken_and_the_last_word_counts() {
        let options = parse("ro,noexec,nosuid,nodev,noatime,allow_other").unwrap();
        let all = MountFlags { read_only: true, noexec: true, nosuid: true, nodev: true, noatime: true };
        assert_eq!((options.flags, options.allow_other), (all, true));
        let options = MountOptions::parse(["ro,noexec", "rw"]).unwrap();
        assert_eq!(options.flags, MountFlags { noexec: true, ..MountFlags::default() });
    }

    #[test]
    fn a_mountpoint_is_made_with_a_mode() {
        let mode = |list| parse(list).map(|options| options.mkdir);
        assert_eq!(mode("X-mount.mkdir"), Ok(Some(0o755)));
        assert_eq!(mode("X-mount.mkdir=0555"), Ok(Some(0o555)));
        for bad in ["X-mount.mkdir=", "X-mount.mkdir=9", "X-mount.mkdir=77777"] {
            assert!(mode(bad).unwrap_err().contains("octal"), "{bad}");
        }
    }

    #[test]
    fn a_setting_has_its_value_after_the_equals_sign() {
        let options = parse("ttl=90s,data-dir=/a=b,debug").unwrap();
        let settings: Vec<_> =
            options.settings.iter().map(|(name, v)| (*name, v.to_str().unwrap())).collect();
        assert_eq!(settings, [("ttl", "90s"), ("data-dir", "/a=b"), ("debug", "yes")]);
    }

    #[test]
    fn an_unknown_option_is_refused_by_name() {
        for bad in ["tll=5m", "remount", "size=1g", "ttl", "ttl=", "debug="] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("ro,tll=5m").unwrap_err().starts_with("unknown mount option 'tll=5m': lockfs has "));
    }
}
