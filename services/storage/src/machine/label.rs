//! Reading ZFS labels from a device.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
};

use crate::{
    engine::{
        block::BlockDevice,
        label::{self, LABEL_SIZE, Labels},
    },
    machine::Machine,
};

impl Machine {
    /// What the ZFS labels on this device say. Reads the device itself: the udev
    /// database may be older than a power cut.
    pub(crate) fn labels(&self, device: &BlockDevice) -> io::Result<Labels> {
        let mut node = File::open(self.node(device))?;
        // Of a block device the metadata has no size.
        let size = node.seek(SeekFrom::End(0))?;
        let step = LABEL_SIZE as u64;
        let end = size - size % step;
        if end < 4 * step {
            return Ok(Labels::None);
        }
        let mut labels = Vec::with_capacity(4);
        for offset in [0, step, end - 2 * step, end - step] {
            let mut bytes = vec![0; LABEL_SIZE];
            node.seek(SeekFrom::Start(offset))?;
            node.read_exact(&mut bytes)?;
            labels.push(bytes);
        }
        Ok(label::read(&labels))
    }
}
