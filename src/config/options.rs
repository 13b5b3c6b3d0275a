//! `-o` as mount(8) has it: a comma-separated list of switches and `key=value`.
//!
//! Every option is either one of ours, a flag of mount(2) that we pass on, or one that mount(8) means for
//! others (`x-*`, `_netdev`, `noauto` and so on, see fstab(5)); anything else is refused, not ignored.

use std::ffi::OsString;

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
}

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
            // What lockfs does anyway, and what mount(8), fstab(5) and systemd.mount(5) mean for themselves.
            ""
            | "defaults"
            | "default_permissions"
            | "async"
            | "relatime"
            | "nodiratime"
            | "auto"
            | "noauto"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "nofail"
            | "_netdev" => {}
            _ if option.starts_with("x-") || option.starts_with("X-") || option.starts_with("comment=") => {}
            _ => return self.take_setting(option),
        }
        Ok(())
    }

    fn take_setting(&mut self, option: &str) -> Result<(), ConfigError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<MountOptions, String> {
        MountOptions::parse([list]).map_err(|error| error.to_string())
    }

    #[test]
    fn what_fstab_says_to_others_is_let_through() {
        let list = "rw,noauto,_netdev,nofail,user,defaults,x-systemd.automount,comment=a b,X-mount.mkdir";
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
