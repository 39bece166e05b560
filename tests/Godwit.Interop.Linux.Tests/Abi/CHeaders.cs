namespace Godwit.Interop.Linux.Tests.Abi;

/// <summary>Where C declares what a type of the interop room mirrors. Extend this when a header is added to the room.</summary>
internal static class CHeaders
{
    /// <summary>By C# type name: the headers to include for its constants, nested structs and, for a struct, for itself.</summary>
    internal static readonly IReadOnlyDictionary<string, string[]> ByType = new Dictionary<string, string[]>(StringComparer.Ordinal)
    {
        ["Errno"] = ["errno.h"],
        ["EventFd"] = ["sys/eventfd.h"],
        ["fcntl"] = ["fcntl.h"],
        ["flock"] = ["fcntl.h"],
        ["mman"] = ["sys/mman.h"],
        ["poll"] = ["poll.h"],
        ["pollfd"] = ["poll.h"],
        ["socket"] = ["sys/socket.h", "sys/un.h", "sys/uio.h", "sys/time.h"],
        ["stat"] = ["sys/stat.h", "fcntl.h"],
        ["statfs"] = ["sys/vfs.h"],
        ["unistd"] = ["unistd.h", "fcntl.h"],
    };

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
