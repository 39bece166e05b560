namespace Godwit.Interop.Linux.Tests.Abi;

/// <summary>Where C declares what a type of the interop room mirrors. Extend this when a header is added to the room.</summary>
internal static class CHeaders
{
    /// <summary>By C# type name: the headers to include for its constants, nested structs and, for a struct, for itself.</summary>
    internal static readonly IReadOnlyDictionary<string, string[]> ByType = new Dictionary<string, string[]>(StringComparer.Ordinal)
    {
        ["Epoll"] = ["sys/epoll.h"],
        ["epoll_event"] = ["sys/epoll.h"],
        ["Errno"] = ["errno.h"],
        ["EventFd"] = ["sys/eventfd.h"],
        ["fcntl"] = ["fcntl.h"],
        ["flock"] = ["fcntl.h"],
        ["iommufd"] = ["linux/iommufd.h"],
        ["mman"] = ["sys/mman.h"],
        ["poll"] = ["poll.h"],
        ["pollfd"] = ["poll.h"],
        ["resource"] = ["sys/resource.h"],
        ["rlimit"] = ["sys/resource.h"],
        ["signal"] = ["signal.h"],
        ["socket"] = ["sys/socket.h", "sys/un.h", "sys/uio.h", "sys/time.h"],
        ["spawn"] = ["spawn.h"],
        ["stat"] = ["sys/stat.h", "fcntl.h"],
        ["statfs"] = ["sys/vfs.h", "linux/magic.h"],
        ["ucred"] = ["sys/socket.h"],
        ["unistd"] = ["unistd.h", "fcntl.h"],
        ["vfio"] = ["linux/vfio.h"],
        ["wait"] = ["sys/wait.h"],
    };

    /// <summary>Structs of a header, each its own owner, by the prefix of their names.</summary>
    private static readonly (string Prefix, string Owner)[] Families = [("vfio_", "vfio"), ("iommu_", "iommufd")];

    /// <summary>
    /// Owners and members that Debian 12's headers (Linux 6.1) do not declare yet: checked against a newer kernel's headers only.
    /// </summary>
    internal static readonly IReadOnlySet<string> NewerThanDebian12 = new HashSet<string>(StringComparer.Ordinal)
    {
        "iommufd",
        "vfio.VFIO_DEVICE_BIND_IOMMUFD",
        "vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT",
        "vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT",
        "vfio.VFIO_MIG_GET_PRECOPY_INFO",
        "vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID",
        "vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED",
        "vfio.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE",
        "vfio.VFIO_MIGRATION_PRE_COPY",
        "vfio.VFIO_DEVICE_STATE_PRE_COPY",
        "vfio.VFIO_DEVICE_STATE_PRE_COPY_P2P",
        "vfio.vfio_device_info", // cap_offset is, pad is not
        "vfio.vfio_device_bind_iommufd",
        "vfio.vfio_device_attach_iommufd_pt",
        "vfio.vfio_device_detach_iommufd_pt",
        "vfio.vfio_precopy_info",
        "vfio.vfio_device_feature_mig_data_size",
        "vfio.vfio_iommu_type1_info", // pad
    };

    /// <summary>Headers that a newer kernel's package declares more of.</summary>
    internal static readonly IReadOnlySet<string> KernelOwners = new HashSet<string>(StringComparer.Ordinal) { "iommufd", "vfio" };

    /// <summary>Whether Debian 12 lacks it.</summary>
    internal static bool IsNew(string owner, string name) => NewerThanDebian12.Contains(owner) || NewerThanDebian12.Contains($"{owner}.{name}");

    /// <summary>The owner of a struct that has no entry of its own.</summary>
    internal static string FamilyOf(string name) =>
        Families.FirstOrDefault(family => name.StartsWith(family.Prefix, StringComparison.Ordinal)).Owner ?? name;

    /// <summary>Constants with C names that no user-space header declares, each with its reason.</summary>
    internal static readonly IReadOnlyDictionary<string, string> NotInHeaders = new Dictionary<string, string>(StringComparer.Ordinal)
    {
        ["socket.SCM_MAX_FD"] = "internal to the kernel (include/net/scm.h)",
    };

    /// <summary>Structs that mirror nothing in C.</summary>
    internal static readonly IReadOnlySet<string> ManagedStructs = new HashSet<string>(StringComparer.Ordinal)
    {
        "FileStatus",
    };
}
