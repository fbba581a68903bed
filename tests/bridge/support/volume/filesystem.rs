//! What the kernel asks of a file system, answered by the medium. One request at a time: the session has one thread.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use super::medium::{Medium, Node};
use super::power::{Operation, Power};

/// The kernel remembers nothing: neither names nor attributes.
const NEVER: Duration = Duration::ZERO;

const GENERATION: Generation = Generation(0);

const BLOCK: u32 = 4096;

/// Blocks of the volume: 1 GiB.
const BLOCKS: u64 = 256 * 1024;

/// What is mounted.
pub(super) struct Mounted(pub(super) Arc<Power>);

fn node(number: INodeNo) -> Node {
    Node(number.0)
}

fn small(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

fn large(length: usize) -> u64 {
    u64::try_from(length).unwrap()
}

fn attributes(medium: &Medium, node: Node) -> Result<FileAttr, Errno> {
    let (kind, perm, size) = match medium.length(node) {
        Some(length) => (FileType::RegularFile, 0o600, large(length)),
        None if medium.is_folder(node) => (FileType::Directory, 0o700, 0),
        None => return Err(Errno::ENOENT),
    };
    let time: SystemTime = UNIX_EPOCH;
    Ok(FileAttr {
        ino: INodeNo(node.0),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    })
}

fn found(medium: &Medium, folder: INodeNo, name: &OsStr) -> Result<Node, Errno> {
    medium.find(node(folder), name).ok_or(Errno::ENOENT)
}

/// What a failing operation leaves where it leaves nothing.
fn nothing(_medium: &mut Medium) {}

impl Mounted {
    fn remove(&self, folder: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let remove = |medium: &mut Medium| {
            let gone = found(medium, folder, name)?;
            if !medium.list(gone).is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            medium.remove(gone, node(folder), name);
            Ok(())
        };
        self.0.change(Operation::Name, remove, nothing)
    }
}

fn done(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.look(|medium| attributes(medium, found(medium, parent, name)?)) {
            Ok(attributes) => reply.entry(&NEVER, &attributes, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.look(|medium| attributes(medium, node(ino))) {
            Ok(attributes) => reply.attr(&NEVER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = |medium: &mut Medium| {
            if let Some(size) = size {
                medium.set_length(node(ino), small(size)).ok_or(Errno::EISDIR)?;
            }
            attributes(medium, node(ino))
        };
        match self.0.change(Operation::Write, set, nothing) {
            Ok(attributes) => reply.attr(&NEVER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let make = |medium: &mut Medium| {
            let made = medium.make_folder(node(parent), name);
            attributes(medium, made)
        };
        match self.0.change(Operation::Name, make, nothing) {
            Ok(attributes) => reply.entry(&NEVER, &attributes, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.remove(parent, name), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.remove(parent, name), reply);
    }

    fn rename(&self, _: &Request, parent: INodeNo, name: &OsStr, newparent: INodeNo, newname: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        let rename = |medium: &mut Medium| {
            let moved = found(medium, parent, name)?;
            medium.rename(moved, (node(parent), name), (node(newparent), newname));
            Ok(())
        };
        done(self.0.change(Operation::Name, rename, nothing), reply);
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let make = |medium: &mut Medium| {
            let made = medium.make_file(node(parent), name);
            attributes(medium, made)
        };
        match self.0.change(Operation::Name, make, nothing) {
            Ok(attributes) => reply.created(&NEVER, &attributes, GENERATION, FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.0.repair(node(ino));
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, size: u32, _: OpenFlags, _: Option<LockOwner>, reply: ReplyData) {
        let read = |medium: &Medium| {
            let bytes = medium.read(node(ino), small(offset), small(size.into())).ok_or(Errno::EISDIR)?;
            Ok(bytes.to_vec())
        };
        match self.0.look(read) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (file, offset) = (node(ino), small(offset));
        let write = |medium: &mut Medium| {
            if medium.is_spoilt(file, offset) {
                return Err(Errno::EIO);
            }
            medium.write(file, offset, data).ok_or(Errno::EISDIR)
        };
        match self.0.change(Operation::Write, write, |medium| medium.spoil(file, offset)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap()),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let sync = |medium: &mut Medium| {
            medium.sync_file(node(ino));
            Ok(())
        };
        done(self.0.change(Operation::Sync, sync, |medium| medium.fail_sync(node(ino))), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let sync = |medium: &mut Medium| {
            medium.sync_folder(node(ino));
            Ok(())
        };
        done(self.0.change(Operation::SyncFolder, sync, nothing), reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let list = |medium: &Medium| {
            let kind = |node| if medium.is_folder(node) { FileType::Directory } else { FileType::RegularFile };
            Ok(medium.list(node(ino)).into_iter().map(|(name, node)| (name, node, kind(node))).collect::<Vec<_>>())
        };
        let entries = match self.0.look(list) {
            Ok(entries) => entries,
            Err(error) => return reply.error(error),
        };
        for (index, (name, node, kind)) in entries.into_iter().enumerate().skip(small(offset)) {
            if reply.add(INodeNo(node.0), large(index + 1), kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.0.look(|medium| Ok(large(medium.size()))) {
            Ok(size) => {
                let free = BLOCKS.saturating_sub(size.div_ceil(BLOCK.into()));
                reply.statfs(BLOCKS, free, free, 1_000_000, 1_000_000, BLOCK, 255, BLOCK);
            }
            Err(error) => reply.error(error),
        }
    }
}
