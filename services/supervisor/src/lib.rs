//! Start-up order, operator log, power, kernel information, hardware inventory.
