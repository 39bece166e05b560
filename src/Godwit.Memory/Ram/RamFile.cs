using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Memory;

/// <summary>A file that another process offers as a block's RAM: what is checked before it is mapped.</summary>
public static class RamFile
{
    /// <summary>
    /// Without these a page of it could go away under whoever has it mapped, which ends the process at its next access (SIGBUS; fcntl(2),
    /// "File sealing").
    /// </summary>
    private const int NeededSeals = unistd.F_SEAL_SHRINK | unistd.F_SEAL_GROW | unistd.F_SEAL_SEAL;

    private const int ReadOnlySeals = unistd.F_SEAL_WRITE | unistd.F_SEAL_FUTURE_WRITE;

    /// <summary>Says what is wrong with <paramref name="file"/> as RAM of <paramref name="size"/> bytes, or null.</summary>
    /// <exception cref="LinuxException">It cannot be looked at.</exception>
    public static RamFileFault? FindFault(FileDescriptor file, ulong size)
    {
        ArgumentNullException.ThrowIfNull(file);
        FileStatus status = stat.Of(file);
        if (!status.IsRegular)
            return new RamFileFault("kind", "no regular file", "RAM is a sealed memfd");
        if (status.Size != size)
            return new RamFileFault("size", $"{status.Size} bytes", $"the block has {size}");
        int seals = unistd.fcntl(file, unistd.F_GET_SEALS, 0);
        if (seals < 0)
            return new RamFileFault("seals", $"{(Errno)Marshal.GetLastPInvokeError()}", "RAM is a sealed memfd, and this file cannot have seals");
        if ((seals & NeededSeals) != NeededSeals)
            return new RamFileFault("seals", $"0x{seals:x}", $"0x{NeededSeals:x} must be among them (F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW)");
        if ((seals & ReadOnlySeals) != 0)
            return new RamFileFault("seals", $"0x{seals:x}", "it must be writable (neither F_SEAL_WRITE nor F_SEAL_FUTURE_WRITE)");
        if (MemFd.SizeThatStays(file) != size)
            return new RamFileFault("kind", "a file of huge pages", "RAM is a memfd of ordinary pages"); // it cannot be written by pwrite, and a page may not be had
        int mode = unistd.fcntl(file, unistd.F_GETFL, 0);
        return (mode & unistd.O_ACCMODE) == fcntl.O_RDWR
            ? null
            : new RamFileFault("access mode", $"{mode & unistd.O_ACCMODE}", $"it must be open for reading and writing ({fcntl.O_RDWR})");
    }
}

/// <summary>Why a file is no RAM.</summary>
/// <param name="Field">What is wrong.</param>
/// <param name="Value">What it is.</param>
/// <param name="Limit">What it may be, as the rest of a sentence.</param>
public sealed record RamFileFault(string Field, string Value, string Limit);
