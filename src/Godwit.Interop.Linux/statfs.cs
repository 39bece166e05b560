using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

#pragma warning disable CS1591 // C names; see the man page of each call

/// <summary>sys/statfs.h: the file system behind a descriptor; linux/magic.h.</summary>
public static unsafe partial class statfs
{
    public const uint HUGETLBFS_MAGIC = 0x958458F6;

    [LibraryImport("libc", SetLastError = true)]
    public static partial int fstatfs(FileDescriptor fd, statfs_t* buffer);

    /// <summary>struct statfs (64-bit ABIs), 120 bytes: the leading fields; the rest is room.</summary>
    [StructLayout(LayoutKind.Sequential, Size = 120)]
    public struct statfs_t
    {
        public long f_type;
        public long f_bsize;
    }
}
