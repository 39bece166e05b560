using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

#pragma warning disable CS1591 // C names; linux/vfio.h documents each. Flexible arrays at the end have no member here.

/// <summary>struct vfio_info_cap_header: links the capabilities behind an info structure.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_info_cap_header
{
    public ushort id;
    public ushort version;
    public uint next;
}

/// <summary>struct vfio_group_status.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_group_status
{
    public uint argsz;
    public uint flags;
}

/// <summary>struct vfio_device_info.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_device_info
{
    public uint argsz;
    public uint flags;
    public uint num_regions;
    public uint num_irqs;
    public uint cap_offset;
    public uint pad;
}

/// <summary>struct vfio_region_info.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_region_info
{
    public uint argsz;
    public uint flags;
    public uint index;
    public uint cap_offset;
    public ulong size;
    public ulong offset;
}

/// <summary>struct vfio_region_sparse_mmap_area.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_region_sparse_mmap_area
{
    public ulong offset;
    public ulong size;
}

/// <summary>struct vfio_region_info_cap_sparse_mmap, followed by nr_areas areas.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_region_info_cap_sparse_mmap
{
    public vfio_info_cap_header header;
    public uint nr_areas;
    public uint reserved;
}

/// <summary>struct vfio_irq_info.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_irq_info
{
    public uint argsz;
    public uint flags;
    public uint index;
    public uint count;
}

/// <summary>struct vfio_irq_set, followed by its data.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_irq_set
{
    public uint argsz;
    public uint flags;
    public uint index;
    public uint start;
    public uint count;
}

/// <summary>struct vfio_pci_dependent_device; group_id is devid for a device opened by its own node.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_pci_dependent_device
{
    public uint group_id;
    public ushort segment;
    public byte bus;
    public byte devfn;
}

/// <summary>struct vfio_pci_hot_reset_info, followed by count dependent devices.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_pci_hot_reset_info
{
    public uint argsz;
    public uint flags;
    public uint count;
}

/// <summary>struct vfio_pci_hot_reset, followed by count group descriptors.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_pci_hot_reset
{
    public uint argsz;
    public uint flags;
    public uint count;
}

/// <summary>struct vfio_device_feature, followed by the feature's data.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_device_feature
{
    public uint argsz;
    public uint flags;
}

/// <summary>struct vfio_device_bind_iommufd.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_device_bind_iommufd
{
    public uint argsz;
    public uint flags;
    public int iommufd;
    public uint out_devid;
    public ulong token_uuid_ptr;
}

/// <summary>struct vfio_device_attach_iommufd_pt.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_device_attach_iommufd_pt
{
    public uint argsz;
    public uint flags;
    public uint pt_id;
    public uint pasid;
}

/// <summary>struct vfio_device_detach_iommufd_pt.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_device_detach_iommufd_pt
{
    public uint argsz;
    public uint flags;
    public uint pasid;
}

/// <summary>struct vfio_device_feature_migration.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_device_feature_migration
{
    public ulong flags;
}

/// <summary>struct vfio_device_feature_mig_state.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_device_feature_mig_state
{
    public uint device_state;
    public int data_fd;
}

/// <summary>struct vfio_precopy_info, of the migration's data descriptor.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_precopy_info
{
    public uint argsz;
    public uint flags;
    public ulong initial_bytes;
    public ulong dirty_bytes;
}

/// <summary>struct vfio_device_feature_dma_logging_control.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_device_feature_dma_logging_control
{
    public ulong page_size;
    public uint num_ranges;
    public uint __reserved;
    public ulong ranges;
}

/// <summary>struct vfio_device_feature_dma_logging_range.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_device_feature_dma_logging_range
{
    public ulong iova;
    public ulong length;
}

/// <summary>struct vfio_device_feature_dma_logging_report.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_device_feature_dma_logging_report
{
    public ulong iova;
    public ulong length;
    public ulong page_size;
    public ulong bitmap;
}

/// <summary>struct vfio_device_feature_mig_data_size.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_device_feature_mig_data_size
{
    public ulong stop_copy_length;
}

/// <summary>struct vfio_iommu_type1_info.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_iommu_type1_info
{
    public uint argsz;
    public uint flags;
    public ulong iova_pgsizes;
    public uint cap_offset;
    public uint pad;
}

/// <summary>struct vfio_iova_range; end is the last byte.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_iova_range
{
    public ulong start;
    public ulong end;
}

/// <summary>struct vfio_iommu_type1_info_cap_iova_range, followed by nr_iovas ranges.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_iommu_type1_info_cap_iova_range
{
    public vfio_info_cap_header header;
    public uint nr_iovas;
    public uint reserved;
}

/// <summary>struct vfio_iommu_type1_info_cap_migration.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_iommu_type1_info_cap_migration
{
    public vfio_info_cap_header header;
    public uint flags;
    public ulong pgsize_bitmap;
    public ulong max_dirty_bitmap_size;
}

/// <summary>struct vfio_iommu_type1_info_dma_avail.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_iommu_type1_info_dma_avail
{
    public vfio_info_cap_header header;
    public uint avail;
}

/// <summary>struct vfio_iommu_type1_dma_map.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_iommu_type1_dma_map
{
    public uint argsz;
    public uint flags;
    public ulong vaddr;
    public ulong iova;
    public ulong size;
}

/// <summary>struct vfio_bitmap.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_bitmap
{
    public ulong pgsize;
    public ulong size;
    public ulong data;
}

/// <summary>struct vfio_iommu_type1_dma_unmap, followed by a vfio_bitmap when the flag asks for it.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_iommu_type1_dma_unmap
{
    public uint argsz;
    public uint flags;
    public ulong iova;
    public ulong size;
}

/// <summary>struct vfio_iommu_type1_dirty_bitmap, followed by its range when the flag asks for it.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_iommu_type1_dirty_bitmap
{
    public uint argsz;
    public uint flags;
}

/// <summary>struct vfio_iommu_type1_dirty_bitmap_get.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct vfio_iommu_type1_dirty_bitmap_get
{
    public ulong iova;
    public ulong size;
    public vfio_bitmap bitmap;
}
