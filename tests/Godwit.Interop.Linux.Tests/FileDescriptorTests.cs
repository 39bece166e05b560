namespace Godwit.Interop.Linux.Tests;

public sealed unsafe class FileDescriptorTests
{
    [Fact]
    public void An_empty_handle_is_invalid()
    {
        using var empty = new FileDescriptor();
        Assert.True(empty.IsInvalid);
        Assert.Equal(-1, empty.Number);
    }

    [Fact]
    public void Disposing_closes_the_descriptor()
    {
        using MemFd file = MemFd.Create("test", 4096);
        int flags;
        using (FileDescriptor second = file.Duplicate())
        {
            flags = unistd.fcntl(second, unistd.F_GETFD, 0);
            Assert.NotEqual(file.Number, second.Number);
            Assert.True(Directory.Exists($"/proc/self/fdinfo") && File.Exists($"/proc/self/fdinfo/{second.Number}"));
        }

        Assert.Equal(1, flags); // FD_CLOEXEC
        Assert.False(file.IsClosed);
        Assert.Equal(1, unistd.fcntl(file, unistd.F_GETFD, 0));
    }

    [Fact]
    public void A_duplicate_is_the_same_file()
    {
        using MemFd file = MemFd.Create("test", 4096);
        using FileDescriptor second = file.Duplicate();
        byte written = 42;
        Assert.Equal(1, unistd.pwrite(second, &written, 1, 100));
        byte read = 0;
        Assert.Equal(1, unistd.pread(file, &read, 1, 100));
        Assert.Equal(42, read);
    }

    [Fact]
    public void Adopt_takes_ownership()
    {
        using MemFd file = MemFd.Create("test", 4096);
        int number = unistd.fcntl(file, unistd.F_DUPFD_CLOEXEC, 500);
        Assert.True(number >= 500);
        FileDescriptor adopted = FileDescriptor.Adopt(number);
        Assert.Equal(number, adopted.Number);
        adopted.Dispose();
        Assert.False(File.Exists($"/proc/self/fdinfo/{number}"));
    }

    [Fact]
    public void A_failure_carries_call_subject_and_number()
    {
        using FileDescriptor bad = FileDescriptor.Adopt(1_000_000);
        var error = Assert.Throws<LinuxException>(() => bad.Duplicate());
        Assert.Equal(Errno.EBADF, error.Errno);
        Assert.Equal("fcntl(F_DUPFD_CLOEXEC)", error.Operation);
        Assert.Contains("EBADF", error.Message, StringComparison.Ordinal);
        bad.SetHandleAsInvalid();

        var named = new LinuxException("open", "/tmp/x", Errno.ENOENT);
        Assert.Equal("/tmp/x", named.Subject);
        Assert.Contains("open failed on /tmp/x", named.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_closed_handle_is_refused_by_every_call()
    {
        MemFd file = MemFd.Create("test", 4096);
        file.Dispose();
        Assert.Throws<ObjectDisposedException>(() => file.Duplicate());
        Assert.Throws<ObjectDisposedException>(() => unistd.ftruncate(file, 0));
    }
}
