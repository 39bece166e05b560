using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux.Tests;

public sealed unsafe class MemFdTests
{
    [Theory]
    [InlineData(0)]
    [InlineData(4096)]
    [InlineData(1 << 22)]
    public void The_size_can_be_changed_by_nobody(long size)
    {
        using MemFd file = MemFd.Create("sealed", 2 << 20);
        using FileDescriptor handedOut = file.Duplicate();
        Assert.Equal(-1, unistd.ftruncate(handedOut, size));
        Assert.Equal(Errno.EPERM, (Errno)Marshal.GetLastPInvokeError());
        AssertLength(file, 2 << 20);
    }

    [Fact]
    public void The_seals_themselves_are_sealed()
    {
        using MemFd file = MemFd.Create("sealed", 4096);
        int seals = unistd.fcntl(file, unistd.F_GET_SEALS, 0);
        Assert.Equal(unistd.F_SEAL_SEAL | unistd.F_SEAL_SHRINK | unistd.F_SEAL_GROW, seals);
        const int SealWrite = 0x8; // F_SEAL_WRITE: a peer that could set it would break our own writes
        Assert.Equal(-1, unistd.fcntl(file, unistd.F_ADD_SEALS, SealWrite));
        Assert.Equal(Errno.EPERM, (Errno)Marshal.GetLastPInvokeError());
    }

    [Fact]
    public void It_closes_on_exec_and_begins_with_zeros()
    {
        using MemFd file = MemFd.Create("fresh", 8192);
        Assert.Equal(1, unistd.fcntl(file, unistd.F_GETFD, 0));
        using MemoryMapping mapping = MemoryMapping.MapShared(file, 0, 8192, writable: false);
        Assert.True(new ReadOnlySpan<byte>(mapping.Address, 8192).IndexOfAnyExcept((byte)0) < 0);
    }

    [Fact]
    public void Failures_leak_no_descriptor_and_name_the_cause()
    {
        Assert.Equal("memfd_create", Assert.Throws<LinuxException>(() => MemFd.Create(new string('n', 250), 4096)).Operation);
        Assert.Throws<OverflowException>(() => MemFd.Create("leaked?", ulong.MaxValue));
        Assert.DoesNotContain(OpenFiles(), target => target.Contains("leaked?", StringComparison.Ordinal));
        using MemFd kept = MemFd.Create("kept", 4096);
        Assert.Contains(OpenFiles(), target => target.Contains("memfd:kept", StringComparison.Ordinal));
    }

    [Fact]
    public void Two_mappings_show_the_same_bytes()
    {
        using MemFd file = MemFd.Create("shared", 8192);
        using MemoryMapping all = MemoryMapping.MapShared(file, 0, 8192, writable: true);
        using MemoryMapping second = MemoryMapping.MapShared(file, 4096, 4096, writable: false);
        Assert.Equal(4096UL, second.Length);
        all.Address[4096 + 7] = 9;
        Assert.Equal(9, second.Address[7]);
    }

    [Fact]
    public void Impossible_mappings_are_refused()
    {
        using MemFd file = MemFd.Create("map", 8192);
        Assert.Throws<ArgumentOutOfRangeException>(() => MemoryMapping.MapShared(file, 0, 0, writable: true));
        var error = Assert.Throws<LinuxException>(() => MemoryMapping.MapShared(file, 123, 4096, writable: true));
        Assert.Equal(Errno.EINVAL, error.Errno);
    }

    [Fact]
    public void A_mapping_outlives_its_descriptor()
    {
        MemFd file = MemFd.Create("map", 4096);
        using MemoryMapping mapping = MemoryMapping.MapShared(file, 0, 4096, writable: true);
        file.Dispose();
        mapping.Address[0] = 1;
        Assert.Equal(1, mapping.Address[0]);
    }

    private static string[] OpenFiles() =>
        [.. Directory.GetFiles("/proc/self/fd").Select(path => new FileInfo(path).LinkTarget ?? "")];

    private static void AssertLength(FileDescriptor file, long length)
    {
        byte last = 0;
        Assert.Equal(1, unistd.pread(file, &last, 1, length - 1));
        Assert.Equal(0, unistd.pread(file, &last, 1, length));
    }

    [Fact]
    public void Only_a_sealed_file_of_ordinary_pages_stays_whatever_its_owner_does()
    {
        using MemFd file = MemFd.Create("sealed", 8192);
        Assert.Equal(8192UL, MemFd.SizeThatStays(file));
        using FileDescriptor open = Anonymous(mman.MFD_ALLOW_SEALING);
        Assert.Equal(0UL, MemFd.SizeThatStays(open));
        Assert.Equal(0, unistd.fcntl(open, unistd.F_ADD_SEALS, unistd.F_SEAL_SHRINK));
        Assert.Equal(HugePage, MemFd.SizeThatStays(open));
        using FileDescriptor huge = Anonymous(mman.MFD_ALLOW_SEALING | mman.MFD_HUGETLB);
        if (huge.IsInvalid)
            Assert.Skip("this kernel has no huge pages");
        Assert.Equal(0, unistd.fcntl(huge, unistd.F_ADD_SEALS, unistd.F_SEAL_SHRINK));
        Assert.Equal(0UL, MemFd.SizeThatStays(huge));
    }

    private const ulong HugePage = 2 << 20;

    private static FileDescriptor Anonymous(uint flags)
    {
        int number = mman.memfd_create("foreign", mman.MFD_CLOEXEC | flags);
        if (number < 0)
            return new FileDescriptor();
        FileDescriptor file = FileDescriptor.Adopt(number);
        Assert.Equal(0, unistd.ftruncate(file, (long)HugePage));
        return file;
    }
}
