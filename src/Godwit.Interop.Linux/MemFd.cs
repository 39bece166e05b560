namespace Godwit.Interop.Linux;

/// <summary>An anonymous file in memory (memfd_create(2)) of fixed size, which can be handed to other processes.</summary>
public sealed class MemFd : FileDescriptor
{
    /// <summary>
    /// Creates a file of <paramref name="size"/> zero bytes, sealed against shrinking and growing, so that a peer that maps it
    /// can never be made to fault.
    /// </summary>
    /// <exception cref="LinuxException">No memory or no descriptor.</exception>
    public static MemFd Create(string name, ulong size)
    {
        var result = new MemFd();
        int number = mman.memfd_create(name, mman.MFD_CLOEXEC | mman.MFD_ALLOW_SEALING);
        if (number < 0)
            LinuxException.ThrowLast("memfd_create", name);
        result.SetHandle(number);
        try
        {
            if (unistd.ftruncate(result, checked((long)size)) != 0)
                LinuxException.ThrowLast("ftruncate", $"{name} to {size} bytes");
            const int Seals = unistd.F_SEAL_SHRINK | unistd.F_SEAL_GROW | unistd.F_SEAL_SEAL;
            if (unistd.fcntl(result, unistd.F_ADD_SEALS, Seals) != 0)
                LinuxException.ThrowLast("fcntl(F_ADD_SEALS)", name);
            return result;
        }
        catch
        {
            result.Dispose();
            throw;
        }
    }

    /// <summary>
    /// How much of a file of somebody else can be mapped without a fear of SIGBUS, whatever its owner does with it: its size when it is sealed against shrinking
    /// (fcntl(2), F_SEAL_SHRINK), else 0. So it is for one of huge pages, which its owner can still punch holes into (fallocate(2)): where an ordinary page would
    /// come back as zeros, there may be no huge page to be had.
    /// </summary>
    public static unsafe ulong SizeThatStays(FileDescriptor file)
    {
        int seals = unistd.fcntl(file, unistd.F_GET_SEALS, 0);
        if (seals < 0 || (seals & unistd.F_SEAL_SHRINK) == 0)
            return 0;
        statfs.statfs_t system;
        if (statfs.fstatfs(file, &system) != 0 || (uint)system.f_type == statfs.HUGETLBFS_MAGIC)
            return 0;
        return stat.Of(file).Size;
    }
}
