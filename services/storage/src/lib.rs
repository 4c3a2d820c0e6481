//! Drives, pools and volumes.
