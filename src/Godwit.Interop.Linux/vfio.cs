namespace Godwit.Interop.Linux;

#pragma warning disable CS1591 // C names; linux/vfio.h documents each

/// <summary>linux/vfio.h: requests and flags of containers, groups and devices. Structures are in vfio.structs.cs.</summary>
public static class vfio
{
    public const int VFIO_API_VERSION = 0;

    // VFIO_CHECK_EXTENSION and VFIO_SET_IOMMU.
    public const int VFIO_TYPE1v2_IOMMU = 3;
    public const int VFIO_UNMAP_ALL = 9;

    // _IO(';', 100 + n)
    public const uint VFIO_GET_API_VERSION = 0x3B64;
    public const uint VFIO_CHECK_EXTENSION = 0x3B65;
    public const uint VFIO_SET_IOMMU = 0x3B66;
    public const uint VFIO_GROUP_GET_STATUS = 0x3B67;
    public const uint VFIO_GROUP_SET_CONTAINER = 0x3B68;
    public const uint VFIO_GROUP_UNSET_CONTAINER = 0x3B69;
    public const uint VFIO_GROUP_GET_DEVICE_FD = 0x3B6A;
    public const uint VFIO_DEVICE_GET_INFO = 0x3B6B;
    public const uint VFIO_DEVICE_GET_REGION_INFO = 0x3B6C;
    public const uint VFIO_DEVICE_GET_IRQ_INFO = 0x3B6D;
    public const uint VFIO_DEVICE_SET_IRQS = 0x3B6E;
    public const uint VFIO_DEVICE_RESET = 0x3B6F;
    public const uint VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = 0x3B70;
    public const uint VFIO_DEVICE_PCI_HOT_RESET = 0x3B71;
    public const uint VFIO_IOMMU_GET_INFO = 0x3B70;
    public const uint VFIO_IOMMU_MAP_DMA = 0x3B71;
    public const uint VFIO_IOMMU_UNMAP_DMA = 0x3B72;
    public const uint VFIO_IOMMU_DIRTY_PAGES = 0x3B75;
    public const uint VFIO_DEVICE_FEATURE = 0x3B75;
    public const uint VFIO_DEVICE_BIND_IOMMUFD = 0x3B76;
    public const uint VFIO_DEVICE_ATTACH_IOMMUFD_PT = 0x3B77;
    public const uint VFIO_DEVICE_DETACH_IOMMUFD_PT = 0x3B78;
    public const uint VFIO_MIG_GET_PRECOPY_INFO = 0x3B79;

    public const uint VFIO_GROUP_FLAGS_VIABLE = 1 << 0;
    public const uint VFIO_GROUP_FLAGS_CONTAINER_SET = 1 << 1;

    public const uint VFIO_DEVICE_FLAGS_RESET = 1 << 0;
    public const uint VFIO_DEVICE_FLAGS_PCI = 1 << 1;

    public const uint VFIO_REGION_INFO_FLAG_READ = 1 << 0;
    public const uint VFIO_REGION_INFO_FLAG_WRITE = 1 << 1;
    public const uint VFIO_REGION_INFO_FLAG_MMAP = 1 << 2;
    public const uint VFIO_REGION_INFO_FLAG_CAPS = 1 << 3;
    public const ushort VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1;
    public const ushort VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3;

    public const uint VFIO_IRQ_INFO_EVENTFD = 1 << 0;
    public const uint VFIO_IRQ_INFO_MASKABLE = 1 << 1;
    public const uint VFIO_IRQ_INFO_AUTOMASKED = 1 << 2;
    public const uint VFIO_IRQ_INFO_NORESIZE = 1 << 3;

    public const uint VFIO_IRQ_SET_DATA_NONE = 1 << 0;
    public const uint VFIO_IRQ_SET_DATA_BOOL = 1 << 1;
    public const uint VFIO_IRQ_SET_DATA_EVENTFD = 1 << 2;
    public const uint VFIO_IRQ_SET_ACTION_MASK = 1 << 3;
    public const uint VFIO_IRQ_SET_ACTION_UNMASK = 1 << 4;
    public const uint VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 5;

    public const uint VFIO_PCI_HOT_RESET_FLAG_DEV_ID = 1 << 0;
    public const uint VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED = 1 << 1;

    public const uint VFIO_DEVICE_FEATURE_MASK = 0xffff;
    public const uint VFIO_DEVICE_FEATURE_GET = 1 << 16;
    public const uint VFIO_DEVICE_FEATURE_SET = 1 << 17;
    public const uint VFIO_DEVICE_FEATURE_PROBE = 1 << 18;
    public const uint VFIO_DEVICE_FEATURE_MIGRATION = 1;
    public const uint VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE = 2;
    public const uint VFIO_DEVICE_FEATURE_DMA_LOGGING_START = 6;
    public const uint VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP = 7;
    public const uint VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT = 8;
    public const uint VFIO_DEVICE_FEATURE_MIG_DATA_SIZE = 9;

    public const ulong VFIO_MIGRATION_STOP_COPY = 1 << 0;
    public const ulong VFIO_MIGRATION_P2P = 1 << 1;
    public const ulong VFIO_MIGRATION_PRE_COPY = 1 << 2;

    public const uint VFIO_DEVICE_STATE_ERROR = 0;
    public const uint VFIO_DEVICE_STATE_STOP = 1;
    public const uint VFIO_DEVICE_STATE_RUNNING = 2;
    public const uint VFIO_DEVICE_STATE_STOP_COPY = 3;
    public const uint VFIO_DEVICE_STATE_RESUMING = 4;
    public const uint VFIO_DEVICE_STATE_RUNNING_P2P = 5;
    public const uint VFIO_DEVICE_STATE_PRE_COPY = 6;
    public const uint VFIO_DEVICE_STATE_PRE_COPY_P2P = 7;

    public const uint VFIO_IOMMU_INFO_PGSIZES = 1 << 0;
    public const uint VFIO_IOMMU_INFO_CAPS = 1 << 1;
    public const ushort VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1;
    public const ushort VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION = 2;
    public const ushort VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3;

    public const uint VFIO_DMA_MAP_FLAG_READ = 1 << 0;
    public const uint VFIO_DMA_MAP_FLAG_WRITE = 1 << 1;
    public const uint VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1 << 0;
    public const uint VFIO_DMA_UNMAP_FLAG_ALL = 1 << 1;
    public const uint VFIO_IOMMU_DIRTY_PAGES_FLAG_START = 1 << 0;
    public const uint VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP = 1 << 1;
    public const uint VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP = 1 << 2;

    public const int VFIO_PCI_BAR0_REGION_INDEX = 0;
    public const int VFIO_PCI_BAR5_REGION_INDEX = 5;
    public const int VFIO_PCI_ROM_REGION_INDEX = 6;
    public const int VFIO_PCI_CONFIG_REGION_INDEX = 7;
    public const int VFIO_PCI_NUM_REGIONS = 9;
    public const int VFIO_PCI_INTX_IRQ_INDEX = 0;
    public const int VFIO_PCI_MSI_IRQ_INDEX = 1;
    public const int VFIO_PCI_MSIX_IRQ_INDEX = 2;
    public const int VFIO_PCI_ERR_IRQ_INDEX = 3;
    public const int VFIO_PCI_REQ_IRQ_INDEX = 4;
    public const int VFIO_PCI_NUM_IRQS = 5;
}
