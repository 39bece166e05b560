using Godwit.Interop.Linux;

namespace Godwit.Memory.Tests;

/// <summary>RAM whose files are another's: read at once, changed only when it is its own.</summary>
public sealed class BorrowedRamTests
{
    private const ulong Size = 2 * RamBlock.SizeUnit;

    [Fact]
    public unsafe void What_is_written_to_borrowed_RAM_gets_into_the_file_when_it_is_owned_and_not_before()
    {
        using var lender = new GuestRam();
        using var borrower = new GuestRam();
        RamBlock lent = lender.Add("main", Size);
        RamBlock block = borrower.Add("main", Size);
        lent.Write(5 << 12, [1, 2, 3], DirtySource.Vmm);
        block.Write(0, [9], DirtySource.Vmm);
        byte* address = block.Pointer;
        borrower.Borrow([lent.File.Duplicate()]);

        Assert.Equal([0], Read(block, 0, 1));
        Assert.Equal([1, 2, 3], Read(block, 5 << 12, 3));
        lent.Write(5 << 12, [4], DirtySource.Vmm); // the lender runs on
        Assert.Equal([4, 2, 3], Read(block, 5 << 12, 3));
        block.Write((5 << 12) + 1, [7], DirtySource.Vmm);
        block.Write((6 << 12) - 1, [8, 8], DirtySource.Vmm);
        Assert.Equal([4, 2, 3], Read(lent, 5 << 12, 3));
        Assert.Equal([0, 0], Read(lent, (6 << 12) - 1, 2));
        Assert.Equal([8, 8], Read(block, (6 << 12) - 1, 2));

        Assert.Equal(2UL, borrower.Own());
        Assert.Equal([4, 7, 3], Read(lent, 5 << 12, 3));
        Assert.Equal([8, 8], Read(lent, (6 << 12) - 1, 2));
        Assert.True(address == block.Pointer);
        Assert.False(borrower.Dirty.Enabled);
        Assert.Equal(stat.Of(lent.File).Inode, stat.Of(block.File).Inode);
        block.Write(Size - 1, [5], DirtySource.Vmm);
        Assert.Equal([5], Read(lent, Size - 1, 1));
        borrower.Dirty.Start();
        Assert.Equal(Size >> RamPage.Shift, borrower.Dirty.Count());
    }

    [Fact]
    public void Pages_of_two_blocks_that_follow_each_other_are_written_back_to_their_own_files()
    {
        using var lender = new GuestRam();
        using var borrower = new GuestRam();
        RamBlock[] lent = [lender.Add("low", Size), lender.Add("high", Size)];
        RamBlock[] blocks = [borrower.Add("low", Size), borrower.Add("high", Size)];
        borrower.Borrow([.. lent.Select(block => block.File.Duplicate())]);
        blocks[0].Write(Size - 1, [1], DirtySource.Vcpu);
        blocks[1].Write(0, [2], DirtySource.Vcpu);
        Assert.Equal(2UL, borrower.Own());
        Assert.Equal([1], Read(lent[0], Size - 1, 1));
        Assert.Equal([2], Read(lent[1], 0, 1));
        Assert.Equal([0], Read(lent[1], Size - 1, 1));
    }

    [Theory]
    [InlineData("size", "the block has")]
    [InlineData("seals", "F_SEAL_SHRINK")]
    [InlineData("more seals", "F_SEAL_SEAL")]
    [InlineData("write seal", "F_SEAL_WRITE")]
    [InlineData("read only", "reading and writing")]
    [InlineData("socket", "sealed memfd")]
    [InlineData("device", "sealed memfd")]
    [InlineData("disk", "cannot have seals")]
    public void A_file_that_is_no_RAM_is_told_by_what_is_wrong(string wrong, string limit)
    {
        using FileDescriptor file = Make(wrong);
        RamFileFault? fault = RamFile.FindFault(file, Size);
        Assert.NotNull(fault);
        Assert.Contains(limit, fault.Limit, StringComparison.Ordinal);
    }

    [Fact]
    public void A_block_of_another_machine_is_RAM()
    {
        using var ram = new GuestRam();
        Assert.Null(RamFile.FindFault(ram.Add("main", Size).File, Size));
    }

    private static byte[] Read(RamBlock block, ulong offset, int count)
    {
        byte[] bytes = new byte[count];
        block.Read(offset, bytes);
        return bytes;
    }

    private static FileDescriptor Make(string wrong)
    {
        switch (wrong)
        {
            case "size":
                return MemFd.Create("small", RamBlock.SizeUnit);
            case "seals" or "more seals" or "write seal":
                FileDescriptor file = FileDescriptor.Adopt(mman.memfd_create(wrong, mman.MFD_CLOEXEC | mman.MFD_ALLOW_SEALING));
                Assert.Equal(0, unistd.ftruncate(file, (long)Size));
                int seals = wrong switch
                {
                    "seals" => unistd.F_SEAL_GROW | unistd.F_SEAL_SEAL,
                    "more seals" => unistd.F_SEAL_SHRINK | unistd.F_SEAL_GROW,
                    _ => unistd.F_SEAL_SHRINK | unistd.F_SEAL_GROW | unistd.F_SEAL_SEAL | unistd.F_SEAL_WRITE,
                };
                Assert.Equal(0, unistd.fcntl(file, unistd.F_ADD_SEALS, seals));
                return file;
            case "read only":
                using (MemFd whole = MemFd.Create("whole", Size))
                    return FileDescriptor.Adopt(fcntl.open($"/proc/self/fd/{whole.Number}", fcntl.O_RDONLY | fcntl.O_CLOEXEC, 0));
            case "socket":
                (SocketHandle first, SocketHandle second) = SocketHandle.CreatePair();
                second.Dispose();
                return first;
            case "device":
                return FileDescriptor.Adopt(fcntl.open("/dev/zero", fcntl.O_RDWR | fcntl.O_CLOEXEC, 0));
            default:
                string path = Path.GetTempFileName();
                FileDescriptor disk = FileDescriptor.Adopt(fcntl.open(path, fcntl.O_RDWR | fcntl.O_CLOEXEC, 0));
                File.Delete(path);
                Assert.Equal(0, unistd.ftruncate(disk, (long)Size));
                return disk;
        }
    }
}
