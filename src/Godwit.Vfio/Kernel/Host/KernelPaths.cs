using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>What the two ways to a kernel device check alike.</summary>
internal static class KernelPaths
{
    /// <summary>Why a node of VFIO could not be opened.</summary>
    public static VfioAttachException OpenFailed(string address, string path, Errno errno) => errno switch
    {
        Errno.EACCES or Errno.EPERM => new DevicePermissionException(address, path),
        Errno.EBUSY => new DeviceBusyException(address, path),
        Errno.ENOENT or Errno.ENODEV or Errno.ENXIO => new VfioAttachException(address, $"{path} is not there ({errno}); is vfio-pci loaded (modprobe vfio-pci) and the device bound to it?"),
        _ => new VfioAttachException(address, $"{path} cannot be opened: {errno}"),
    };

    /// <summary>Guest pages must be mappable one by one.</summary>
    public static void CheckPageSizes(string address, ulong sizes)
    {
        if ((sizes & (RamPage.Size | (RamPage.Size - 1))) == 0)
            throw new VfioAttachException(address, $"the host's IOMMU has pages of 0x{sizes:x} bytes; pages of {RamPage.Size} bytes are needed");
    }
}
