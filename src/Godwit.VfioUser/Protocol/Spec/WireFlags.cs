namespace Godwit.VfioUser;

/// <summary>Header flags (vfio-user specification, "Header").</summary>
[Flags]
internal enum HeaderFlags : uint
{
    /// <summary>Bits 3:0 are the type: 0 command, 1 reply.</summary>
    TypeMask = 0xf,
    Command = 0,
    Reply = 1,
    NoReply = 1 << 4,
    Error = 1 << 5,
}

/// <summary>DMA_UNMAP flags (VFIO_DMA_UNMAP_FLAG_*, linux/vfio.h).</summary>
[Flags]
internal enum DmaUnmapFlags : uint
{
    None = 0,
    GetDirtyBitmap = 1,
    All = 2,
}

/// <summary>Device information flags (VFIO_DEVICE_FLAGS_*, linux/vfio.h).</summary>
[Flags]
internal enum DeviceFlags : uint
{
    Reset = 1,
    Pci = 2,
}

/// <summary>Region information flags (VFIO_REGION_INFO_FLAG_*, linux/vfio.h).</summary>
[Flags]
internal enum RegionFlags : uint
{
    Read = 1,
    Write = 2,
    Mmap = 4,
    Caps = 8,
}

/// <summary>What an entry of DEVICE_GET_REGION_IO_FDS is (specification, VFIO_USER_IO_FD_TYPE_*; the last is libvfio-user's).</summary>
internal enum IoFdType : uint
{
    /// <summary>An eventfd that is signalled; the value is lost.</summary>
    IoEventFd = 0,

    /// <summary>A socket that carries accesses (a KVM patch that was never merged).</summary>
    IoRegionFd = 1,

    /// <summary>The value goes to shared memory, then the eventfd is signalled.</summary>
    ShadowIoEventFd = 2,
}

/// <summary>When an eventfd is signalled (linux/kvm.h, KVM_IOEVENTFD_FLAG_*).</summary>
[Flags]
internal enum IoEventFlags : uint
{
    None = 0,

    /// <summary>Only by one value.</summary>
    DataMatch = 1,

    /// <summary>By port I/O.</summary>
    Pio = 2,
}

/// <summary>Interrupt information flags (VFIO_IRQ_INFO_*, linux/vfio.h).</summary>
[Flags]
internal enum IrqFlags : uint
{
    EventFd = 1,
    Maskable = 2,
    AutoMasked = 4,
    NoResize = 8,
}

/// <summary>DEVICE_SET_IRQS flags (VFIO_IRQ_SET_*, linux/vfio.h): exactly one of Data and one of Action.</summary>
[Flags]
internal enum IrqSetFlags : uint
{
    DataNone = 1,
    DataBool = 2,
    DataEventFd = 4,
    ActionMask = 8,
    ActionUnmask = 0x10,
    ActionTrigger = 0x20,
    DataTypes = DataNone | DataBool | DataEventFd,
    Actions = ActionMask | ActionUnmask | ActionTrigger,
}

/// <summary>DEVICE_FEATURE flags (VFIO_DEVICE_FEATURE_*, linux/vfio.h): the feature in bits 15:0, and what to do.</summary>
[Flags]
internal enum FeatureFlags : uint
{
    IndexMask = 0xffff,
    Get = 1 << 16,
    Set = 1 << 17,
    Probe = 1 << 18,
}

/// <summary>Feature numbers (VFIO_DEVICE_FEATURE_*, linux/vfio.h).</summary>
internal enum Feature : uint
{
    Migration = 1,
    MigrationDeviceState = 2,
    DmaLoggingStart = 6,
    DmaLoggingStop = 7,
    DmaLoggingReport = 8,
    MigrationDataSize = 9,
}
