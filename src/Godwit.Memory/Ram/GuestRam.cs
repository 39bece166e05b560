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
}
