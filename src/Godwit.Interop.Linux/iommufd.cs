using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

#pragma warning disable CS1591 // C names; linux/iommufd.h documents each

/// <summary>linux/iommufd.h: address spaces, hardware page tables, dirty tracking.</summary>
public static class iommufd
{
    // _IO(';', 0x80 + n)
    public const uint IOMMU_DESTROY = 0x3B80;
    public const uint IOMMU_IOAS_ALLOC = 0x3B81;
    public const uint IOMMU_IOAS_IOVA_RANGES = 0x3B84;
    public const uint IOMMU_IOAS_MAP = 0x3B85;
    public const uint IOMMU_IOAS_UNMAP = 0x3B86;
    public const uint IOMMU_HWPT_ALLOC = 0x3B89;
    public const uint IOMMU_GET_HW_INFO = 0x3B8A;
    public const uint IOMMU_HWPT_SET_DIRTY_TRACKING = 0x3B8B;
    public const uint IOMMU_HWPT_GET_DIRTY_BITMAP = 0x3B8C;
    public const uint IOMMU_IOAS_MAP_FILE = 0x3B8F;

    public const uint IOMMU_IOAS_MAP_FIXED_IOVA = 1 << 0;
    public const uint IOMMU_IOAS_MAP_WRITEABLE = 1 << 1;
    public const uint IOMMU_IOAS_MAP_READABLE = 1 << 2;
    public const uint IOMMU_HWPT_ALLOC_DIRTY_TRACKING = 1 << 1;
    public const uint IOMMU_HWPT_DATA_NONE = 0;
    public const ulong IOMMU_HW_CAP_DIRTY_TRACKING = 1 << 0;
    public const uint IOMMU_HWPT_DIRTY_TRACKING_ENABLE = 1;
}

/// <summary>struct iommu_destroy.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct iommu_destroy
{
    public uint size;
    public uint id;
}

/// <summary>struct iommu_ioas_alloc.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct iommu_ioas_alloc
{
    public uint size;
    public uint flags;
    public uint out_ioas_id;
}

/// <summary>struct iommu_iova_range; last is the last byte.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct iommu_iova_range
{
    public ulong start;
    public ulong last;
}

/// <summary>struct iommu_ioas_iova_ranges.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct iommu_ioas_iova_ranges
{
    public uint size;
    public uint ioas_id;
    public uint num_iovas;
    public uint __reserved;
    public ulong allowed_iovas;
    public ulong out_iova_alignment;
}

/// <summary>struct iommu_ioas_map.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct iommu_ioas_map
{
    public uint size;
    public uint flags;
    public uint ioas_id;
    public uint __reserved;
    public ulong user_va;
    public ulong length;
    public ulong iova;
}

/// <summary>struct iommu_ioas_map_file.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct iommu_ioas_map_file
{
    public uint size;
    public uint flags;
    public uint ioas_id;
    public int fd;
    public ulong start;
    public ulong length;
    public ulong iova;
}

/// <summary>struct iommu_ioas_unmap.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct iommu_ioas_unmap
{
    public uint size;
    public uint ioas_id;
    public ulong iova;
    public ulong length;
}

/// <summary>struct iommu_hwpt_alloc.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct iommu_hwpt_alloc
{
    public uint size;
    public uint flags;
    public uint dev_id;
    public uint pt_id;
    public uint out_hwpt_id;
    public uint __reserved;
    public uint data_type;
    public uint data_len;
    public ulong data_uptr;
    public uint fault_id;
    public uint __reserved2;
}

/// <summary>struct iommu_hw_info; out_max_pasid_log2 is followed by three reserved bytes.</summary>
[StructLayout(LayoutKind.Explicit, Size = 40)]
public struct iommu_hw_info
{
    [FieldOffset(0)] public uint size;
    [FieldOffset(4)] public uint flags;
    [FieldOffset(8)] public uint dev_id;
    [FieldOffset(12)] public uint data_len;
    [FieldOffset(16)] public ulong data_uptr;
    [FieldOffset(24)] public uint out_data_type;
    [FieldOffset(28)] public byte out_max_pasid_log2;
    [FieldOffset(32)] public ulong out_capabilities;
}

/// <summary>struct iommu_hwpt_set_dirty_tracking.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct iommu_hwpt_set_dirty_tracking
{
    public uint size;
    public uint flags;
    public uint hwpt_id;
    public uint __reserved;
}

/// <summary>struct iommu_hwpt_get_dirty_bitmap.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct iommu_hwpt_get_dirty_bitmap
{
    public uint size;
    public uint hwpt_id;
    public uint flags;
    public uint __reserved;
    public ulong iova;
    public ulong length;
    public ulong page_size;
    public ulong data;
}
