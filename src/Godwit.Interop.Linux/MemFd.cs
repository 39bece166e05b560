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
}
