namespace Godwit.VfioUser;

/// <summary>Command numbers (vfio-user specification, "Message sizes and commands").</summary>
internal enum Command : ushort
{
    Version = 1,
    DmaMap = 2,
    DmaUnmap = 3,
    DeviceGetInfo = 4,
    DeviceGetRegionInfo = 5,
    DeviceGetRegionIoFds = 6,
    DeviceGetIrqInfo = 7,
    DeviceSetIrqs = 8,
    RegionRead = 9,
    RegionWrite = 10,
    DmaRead = 11,
    DmaWrite = 12,
    DeviceReset = 13,
    // 14 was DIRTY_PAGES; its number is not reused.
    RegionWriteMulti = 15,
    DeviceFeature = 16,
    MigrationDataRead = 17,
    MigrationDataWrite = 18,
}

/// <summary>Names for messages to people, as the specification spells them.</summary>
internal static class CommandNames
{
    public static string Name(this Command command) => command switch
    {
        Command.Version => "VERSION",
        Command.DmaMap => "DMA_MAP",
        Command.DmaUnmap => "DMA_UNMAP",
        Command.DeviceGetInfo => "DEVICE_GET_INFO",
        Command.DeviceGetRegionInfo => "DEVICE_GET_REGION_INFO",
        Command.DeviceGetRegionIoFds => "DEVICE_GET_REGION_IO_FDS",
        Command.DeviceGetIrqInfo => "DEVICE_GET_IRQ_INFO",
        Command.DeviceSetIrqs => "DEVICE_SET_IRQS",
        Command.RegionRead => "REGION_READ",
        Command.RegionWrite => "REGION_WRITE",
        Command.DmaRead => "DMA_READ",
        Command.DmaWrite => "DMA_WRITE",
        Command.DeviceReset => "DEVICE_RESET",
        Command.RegionWriteMulti => "REGION_WRITE_MULTI",
        Command.DeviceFeature => "DEVICE_FEATURE",
        Command.MigrationDataRead => "MIG_DATA_READ",
        Command.MigrationDataWrite => "MIG_DATA_WRITE",
        _ => $"command {(ushort)command}",
    };
}
