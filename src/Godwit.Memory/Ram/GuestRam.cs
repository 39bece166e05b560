using System.Text;

namespace Godwit.Memory;

/// <summary>
/// All RAM of one machine: the blocks, the page numbering over them, and the migration bitmap. Blocks are added and the whole is disposed
/// by the thread that builds the machine; everything else may be called from any thread.
/// </summary>
public sealed class GuestRam : IDisposable
{
    /// <summary>Most RAM a machine can have: what 48-bit physical addresses reach (VT-d 11.4.2, the widest guest address offered).</summary>
    public const ulong MaxTotalSize = 1UL << 48;

    private readonly List<RamBlock> _building = [];
    private RamBlock[] _blocks = [];
    private bool _disposed;

    /// <summary>Creates a machine without RAM.</summary>
    public GuestRam()
    {
        Dirty = new DirtyLog();
    }

    /// <summary>The blocks in page order.</summary>
    public IReadOnlyList<RamBlock> Blocks => Volatile.Read(ref _blocks);

    /// <summary>Pages in all blocks.</summary>
    public ulong PageCount => Dirty.PageCount;

    /// <summary>The migration bitmap.</summary>
    public DirtyLog Dirty { get; }

    /// <summary>Adds a block of zero bytes. All blocks are added before the first <see cref="DirtyLog.Start"/>.</summary>
    /// <param name="name">Unique, 1 to 255 bytes of UTF-8, no control characters.</param>
    /// <param name="size">Bytes; a positive multiple of 2 MiB.</param>
    /// <exception cref="ArgumentException">The name or the size is not as described.</exception>
    /// <exception cref="InvalidOperationException">The dirty log has been started before.</exception>
    /// <exception cref="Interop.Linux.LinuxException">The host gives no memory.</exception>
    public RamBlock Add(string name, ulong size)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        ArgumentException.ThrowIfNullOrEmpty(name);
        int nameBytes = Encoding.UTF8.GetByteCount(name);
        if (nameBytes > RamBlock.MaxNameBytes)
            throw new ArgumentException($"The name of a RAM block has {nameBytes} bytes; the limit is {RamBlock.MaxNameBytes}", nameof(name));
        if (name.Any(char.IsControl))
            throw new ArgumentException("The name of a RAM block holds a control character", nameof(name));
        if (_building.Exists(block => block.Name == name))
            throw new ArgumentException($"RAM block {name} exists already", nameof(name));
        if (size == 0 || size % RamBlock.SizeUnit != 0)
        {
            throw new ArgumentOutOfRangeException(nameof(size), size,
                $"RAM block {name}: the size must be a positive multiple of {RamBlock.SizeUnit} bytes");
        }

        ulong total = PageCount << RamPage.Shift;
        if (size > MaxTotalSize - total)
        {
            throw new ArgumentOutOfRangeException(nameof(size), size,
                $"RAM block {name}: with the {total} bytes before it, the machine would have more than {MaxTotalSize} bytes");
        }

        if (Dirty.Sized)
            throw new InvalidOperationException($"RAM block {name} comes after the dirty log was started");

        var result = new RamBlock(name, size, new RamPage(PageCount), Dirty);
        _building.Add(result);
        Dirty.PageCount += size >> RamPage.Shift;
        Volatile.Write(ref _blocks, [.. _building]);
        return result;
    }

    /// <summary>The block that holds <paramref name="page"/> and the byte offset in it; false, and null, when it is no RAM.</summary>
    public bool TryResolve(RamPage page, out RamBlock block, out ulong offset)
    {
        // Machines have a handful of blocks.
        foreach (RamBlock candidate in Volatile.Read(ref _blocks))
        {
            ulong index = page.Index - candidate.FirstPage.Index;
            if (page >= candidate.FirstPage && index < candidate.PageCount)
            {
                block = candidate;
                offset = index << RamPage.Shift;
                return true;
            }
        }

        block = null!; // false says so
        offset = 0;
        return false;
    }

    /// <summary>
    /// Takes other processes' files in place of the blocks' own, whose contents are gone. Until <see cref="Own"/> nothing that is written here gets
    /// into them: whoever has them, too, goes on as if they had not been taken. Addresses stay. The dirty log records meanwhile.
    /// </summary>
    /// <param name="files">One for each block, in their order, that <see cref="RamFile.FindFault"/> has nothing against. They are this object's from here on.</param>
    /// <exception cref="InvalidOperationException">The dirty log is recording for somebody else.</exception>
    /// <exception cref="Interop.Linux.LinuxException">The kernel refused a mapping: RAM must not be used any more.</exception>
    public void Borrow(IReadOnlyList<Interop.Linux.FileDescriptor> files)
    {
        ArgumentNullException.ThrowIfNull(files);
        ArgumentOutOfRangeException.ThrowIfNotEqual(files.Count, _building.Count, nameof(files));
        Dirty.StartClean();
        for (int i = 0; i < files.Count; i++)
            _building[i].Borrow(files[i]);
    }

    /// <summary>Writes what was written here since <see cref="Borrow"/> into the files, which are this machine's from here on, and ends the dirty log.</summary>
    /// <returns>Pages written.</returns>
    /// <exception cref="Interop.Linux.LinuxException">It could not be written, or a mapping was refused: RAM must not be used any more.</exception>
    public ulong Own()
    {
        ulong written = 0;
        var runs = new DirtyRun[DirtyBitmap.MinRuns];
        for (RamPage next = default; next.Index < PageCount;)
        {
            int count = Dirty.Drain(ref next, PageCount, runs);
            foreach (DirtyRun run in runs.AsSpan(0, count))
                written += WriteBack(run);
        }

        foreach (RamBlock block in _building)
            block.Own();
        Dirty.Stop();
        return written;
    }

    /// <summary>
    /// Unmaps and closes everything. Accesses in progress are waited for, later ones fail; users of <see cref="RamBlock.Pointer"/> must
    /// have stopped.
    /// </summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        foreach (RamBlock block in _building)
            block.Withdraw();
        AccessGuard.WaitForAll();
        foreach (RamBlock block in _building)
            block.Release();
        Dirty.Free();
    }

    private ulong WriteBack(DirtyRun run)
    {
        // A run may reach from one block into the next.
        for (ulong done = 0; done < run.Count;)
        {
            if (!TryResolve(run.First + done, out RamBlock block, out ulong offset))
                throw new InvalidOperationException($"{run.First + done} was marked and is no RAM");
            ulong pages = Math.Min(run.Count - done, block.PageCount - (offset >> RamPage.Shift));
            block.WriteBack(offset, pages << RamPage.Shift);
            done += pages;
        }

        return run.Count;
    }
}
