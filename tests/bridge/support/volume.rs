//! A volume of the tests' own, which can lose its power and fail: a file system by FUSE over [`medium::Medium`].
//!
//! It needs root and `/dev/fuse`. Every read, write and sync of a process reaches it, as its files are opened past the kernel's cache.

mod filesystem;
mod medium;
mod power;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::BackgroundSession;
use rustix::process::Signal;

pub(crate) use medium::{Extent, Lost};
pub(crate) use power::{Event, Operation};

use super::bridge::Bridge;
use filesystem::Mounted;
use power::Power;

/// A mounted volume. Declare it before the bridge that uses it, so that it outlives it; dropped, it is unmounted.
pub(crate) struct Volume {
    at: PathBuf,
    power: Arc<Power>,
    session: Option<BackgroundSession>,
}

impl Volume {
    /// Mounts an empty one over a folder, which is made. The seed decides what survives a loss of power.
    pub(crate) fn new(at: &Path, seed: u64) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts a file system of its own: run it as root");
        assert!(Path::new("/dev/fuse").exists(), "this test needs /dev/fuse (modprobe fuse)");
        std::fs::create_dir_all(at).unwrap();
        let mut volume = Self { at: at.to_owned(), power: Arc::new(Power::new(seed)), session: None };
        volume.mount();
        volume
    }

    fn mount(&mut self) {
        let mut config = fuser::Config::default();
        config.mount_options = vec![fuser::MountOption::FSName("chat-bridge-test".to_owned()), fuser::MountOption::NoAtime];
        self.session = Some(fuser::spawn_mount(Mounted(Arc::clone(&self.power)), &self.at, &config).unwrap());
    }

    fn unmount(&mut self) {
        if let Some(session) = self.session.take() {
            session.umount_and_join().unwrap();
        }
    }

    /// Has this happen before the `nth` operation of this kind from now on, counted from 1.
    pub(crate) fn plan(&self, event: Event, operation: Operation, nth: u32) {
        self.power.plan(event, operation, nth);
    }

    /// Whether what was planned has come.
    pub(crate) fn has_come(&self) -> bool {
        !self.power.is_planned()
    }

    /// The power goes, if it has not gone as planned; the bridge ends without another step, for no call of its that reaches the disk comes back before it is
    /// killed. The volume is there again, with what is left.
    pub(crate) fn lose_power(&mut self, bridge: Bridge) -> Lost {
        let lost = self.power.cut();
        bridge.signal(Signal::KILL);
        self.power.let_go();
        bridge.kill();
        self.unmount();
        self.power.on();
        self.mount();
        lost
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_write_that_fails_fails_for_its_caller_in_whichever_of_its_requests() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::new(&dir.path().join("volume"), 1);
        let path = volume.at.join("file");
        // Two requests more than once: the kernel asks for 1 MiB at most.
        let bytes = vec![1; 3 << 20];
        let mut told_late = 0;
        for nth in 1..=3 {
            let file = fs::File::create(&path).unwrap();
            volume.plan(Event::Error, Operation::Write, nth);
            told_late += usize::from(file.write_at(&bytes, 0).is_ok());
            assert!(volume.has_come());
            let again = file.write_all_at(&bytes, 0);
            assert_eq!(again.unwrap_err().raw_os_error(), Some(5), "request {nth}");
            drop(file);
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            drop(file);
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(told_late, 2, "of a write that fails later the kernel tells how far it came");
    }

    #[test]
    fn through_the_kernel_too_only_what_was_synced_is_sure_to_survive() {
        let dir = tempfile::tempdir().unwrap();
        let (mut survived, mut lost) = (0, Lost::default());
        for seed in 0..20 {
            let mut volume = Volume::new(&dir.path().join(seed.to_string()), seed);
            let [synced, unsynced, moved] = ["synced", "unsynced", "moved"].map(|name| volume.at.join(name));
            let file = fs::File::create(&synced).unwrap();
            file.write_all_at(&[1; 10_000], 0).unwrap();
            file.sync_data().unwrap();
            fs::File::open(&volume.at).unwrap().sync_all().unwrap();
            file.write_all_at(&[2; 5_000], 0).unwrap();
            fs::rename(&synced, &moved).unwrap();
            fs::write(&unsynced, "gone?").unwrap();
            assert_eq!(fs::read(&moved).unwrap()[..2], [2, 2], "what was written is seen");
            drop(file);

            let this = volume.power.cut();
            volume.power.let_go();
            assert!(fs::read(&moved).is_err(), "nothing is answered without power");
            volume.unmount();
            volume.power.on();
            volume.mount();
            lost = Lost { sectors: lost.sectors + this.sectors, names: lost.names + this.names };
            assert!(synced.exists() != moved.exists(), "seed {seed}");
            let left = fs::read(if moved.exists() { &moved } else { &synced }).unwrap();
            assert_eq!((left.len(), &left[5_120..]), (10_000, &[1; 10_000 - 5_120][..]), "seed {seed}");
            survived += usize::from(unsynced.exists());
        }
        assert!((1..20).contains(&survived) && lost.sectors > 50 && lost.names > 10, "{survived} {lost:?}");
    }
}
