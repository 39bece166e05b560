using System.Runtime.CompilerServices;
using System.Text;
using Godwit.Interop.Linux;

namespace Godwit.Memory;

/// <summary>
/// A piece of guest RAM on a sealed memfd, mapped into the VMM. The guest and its devices write it at any time, so no managed
/// reference into it exists: callers copy in and out, each field read once, and validate the copy. All members may be called from any
/// thread at once.
/// </summary>
public sealed unsafe class RamBlock
{
    /// <summary>Sizes are a multiple of this: the huge page of the host, and room for future devices that want it.</summary>
    public const ulong SizeUnit = 2 << 20;

    /// <summary>Largest name in bytes of UTF-8; the migration stream gives the length one byte.</summary>
    public const int MaxNameBytes = 255;

    private readonly DirtyLog _dirty;
    private readonly MemoryMapping _mapping;
    private FileDescriptor _file;
    private byte* _pointer;

    internal RamBlock(string name, ulong size, RamPage firstPage, DirtyLog dirty)
    {
        Name = name;
        Size = size;
        FirstPage = firstPage;
        _dirty = dirty;
        _file = MemFd.Create(FileName(name), size);
        try
        {
            _mapping = MemoryMapping.MapShared(_file, 0, size, writable: true);
        }
        catch
        {
            _file.Dispose();
            throw;
        }

        _pointer = _mapping.Address;
        Advise();
    }

    /// <summary>Name in the migration stream, unique in the machine.</summary>
    public string Name { get; }

    /// <summary>Bytes, a multiple of 2 MiB.</summary>
    public ulong Size { get; }

    /// <summary>The machine page number of this block's first page.</summary>
    public RamPage FirstPage { get; }

    /// <summary>Pages in the block.</summary>
    public ulong PageCount => Size >> RamPage.Shift;

    /// <summary>The file behind it, for handing to other processes. Owned by the block; another one after <see cref="GuestRam.Borrow"/>.</summary>
    public FileDescriptor File => _file;

    /// <summary>
    /// First byte of the block in this process, for bulk senders and receivers. Bytes may change at any time; valid until the
    /// owning <see cref="GuestRam"/> is disposed. Writers through it must call <see cref="DirtyLog.Mark(RamPage, ulong, DirtySource)"/> themselves.
    /// </summary>
    /// <exception cref="ObjectDisposedException">The owner has been disposed.</exception>
    public byte* Pointer
    {
        get
        {
            byte* pointer = _pointer;
            ObjectDisposedException.ThrowIf(pointer is null, this);
            return pointer;
        }
    }

    /// <summary>As <see cref="Pointer"/>, or null once disposed. To be dereferenced inside an access guard only.</summary>
    internal byte* GuardedPointer => _pointer;

    /// <summary>
    /// Copies out. Aligned pieces of 1, 2, 4 and 8 bytes are single accesses (copies up to 256 bytes: in ascending order).
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">Outside the block.</exception>
    /// <exception cref="ObjectDisposedException">The owner has been disposed.</exception>
    public void Read(ulong offset, Span<byte> destination)
    {
        CheckRange(offset, (ulong)destination.Length);
        AccessGuard guard = AccessGuard.Current;
        guard.Enter();
        try
        {
            // SAFETY: in range; the guard keeps the mapping until Exit.
            GuestCopy.Read(Pointer + offset, destination);
        }
        finally
        {
            guard.Exit();
        }
    }

    /// <summary>Copies in, as <see cref="Read"/> does, then marks the pages for <paramref name="source"/>.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Outside the block.</exception>
    /// <exception cref="ObjectDisposedException">The owner has been disposed.</exception>
    public void Write(ulong offset, ReadOnlySpan<byte> data, DirtySource source)
    {
        CheckRange(offset, (ulong)data.Length);
        AccessGuard guard = AccessGuard.Current;
        guard.Enter();
        try
        {
            // SAFETY: in range; the guard keeps the mapping until Exit.
            GuestCopy.Write(data, Pointer + offset);
            MarkWritten(offset, (ulong)data.Length, source);
        }
        finally
        {
            guard.Exit();
        }
    }

    /// <inheritdoc/>
    public override string ToString() => $"RAM block {Name} ({Size} bytes)";

    /// <summary>Marks the pages of a write that has been made. The range is inside the block.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void MarkWritten(ulong offset, ulong length, DirtySource source)
    {
        if (!_dirty.Enabled || length == 0)
            return;
        ulong first = offset >> RamPage.Shift;
        ulong last = (offset + (length - 1)) >> RamPage.Shift;
        _dirty.Mark(FirstPage + first, last - first + 1, source);
    }

    /// <summary>Makes new accesses fail; those in progress still reach the mapping.</summary>
    internal void Withdraw() => _pointer = null;

    /// <summary>Unmaps, when no access is in progress any more.</summary>
    internal void Release()
    {
        _mapping.Dispose();
        _file.Dispose();
    }

    /// <summary>Another process's file instead of the own one, as this block's view: what is written here does not get into it.</summary>
    internal void Borrow(FileDescriptor file)
    {
        _mapping.Replace(file, copyOnWrite: true);
        _file.Dispose();
        _file = file;
        Advise();
    }

    /// <summary>Writes into the borrowed file what was written here.</summary>
    internal void WriteBack(ulong offset, ulong length)
    {
        while (length > 0)
        {
            // SAFETY: within the block, by the caller's word.
            nint written = unistd.pwrite(_file, Pointer + offset, (nuint)length, (long)offset);
            if (written < 0 && (Errno)System.Runtime.InteropServices.Marshal.GetLastPInvokeError() == Errno.EINTR)
                continue;
            if (written <= 0)
                LinuxException.ThrowLast("pwrite", $"{ToString()} at offset {offset}");
            offset += (ulong)written;
            length -= (ulong)written;
        }
    }

    /// <summary>From here on the borrowed file is this block's own.</summary>
    internal void Own()
    {
        _mapping.Replace(_file, copyOnWrite: false);
        Advise();
    }

    private void Advise()
    {
        // Advice only: a kernel without huge pages in shared memory, or a sandbox, may refuse either, and nothing depends on them.
        // SAFETY: the range is exactly the mapping.
        _ = mman.madvise(_pointer, (nuint)Size, mman.MADV_HUGEPAGE);
        _ = mman.madvise(_pointer, (nuint)Size, mman.MADV_DONTDUMP);
    }

    // memfd_create(2) takes at most 249 bytes; the name is only for /proc/self/maps.
    private static string FileName(string name) => Encoding.UTF8.GetByteCount(name) <= 200 ? "godwit-" + name : "godwit-ram";

    private void CheckRange(ulong offset, ulong length)
    {
        if (length > Size || offset > Size - length)
        {
            throw new ArgumentOutOfRangeException(nameof(offset), offset,
                $"{length} bytes at offset {offset} leave RAM block {Name} of {Size} bytes");
        }
    }
}
