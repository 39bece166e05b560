using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>A file of the client in use here, as memory or as a descriptor, and how many DMA mappings lie in it.</summary>
internal sealed class SharedFile(FileKey? key, MemoryMapping? memory, FileDescriptor? descriptor, ulong offset, FileBudget budget) : IDisposable
{
    /// <summary>Under what the cache knows it; null when only one mapping uses it.</summary>
    public FileKey? Key { get; set; } = key;

    /// <summary>The file as memory.</summary>
    public MemoryMapping? Memory { get; } = memory;

    /// <summary>The file for system calls.</summary>
    public FileDescriptor? Descriptor { get; } = descriptor;

    /// <summary>Offset in the file of the first byte of <see cref="Memory"/>.</summary>
    public ulong Offset { get; } = offset;

    /// <summary>DMA mappings that lie in it.</summary>
    public int Users { get; set; }

    public void Dispose()
    {
        Memory?.Dispose();
        Descriptor?.Dispose();
        budget.Return(Memory is not null);
    }
}

/// <summary>Identity of a file and how it is used: a read-only descriptor must not gain the rights of an earlier one.</summary>
internal readonly record struct FileKey(ulong Device, ulong Inode, bool AsMemory, int Mode);

/// <summary>
/// Files that the client hands over with DMA_MAP. Behind a vIOMMU the same RAM file comes with every mapping, so it is mapped whole,
/// once, and further DMA mappings cost neither mmap nor page faults nor descriptors. Used by the command thread only.
/// </summary>
internal sealed class FileCache(FileBudget budget) : IDisposable
{
    /// <summary>Files without a DMA mapping that stay; a guest in between two buffers should not pay for the remap.</summary>
    private const int MaxIdle = 8;

    /// <summary>Access modes of F_GETFL (fcntl(2)).</summary>
    private const int O_ACCMODE = 3;
    private const int O_RDONLY = 0;
    private const int O_WRONLY = 1;
    private const int O_RDWR = 2;

    private readonly Dictionary<FileKey, SharedFile> _files = [];
    private readonly List<FileKey> _idle = [];

    /// <summary>Makes a DMA mapping of a received file; takes the descriptor over in any case.</summary>
    /// <returns>None, or why the file cannot be used: EINVAL for what is no regular file or too short, EACCES for missing rights, ENOSPC for too many files.</returns>
    public Errno TryCreate(DmaRange range, DmaAccess access, FileDescriptor file, ulong offset, out Mapping? mapping)
    {
        mapping = null;
        FileDescriptor? unused = file;
        try
        {
            FileStatus status = stat.Of(file);
            if (!status.IsRegular || status.Size < range.Length || offset > status.Size - range.Length || status.Size > long.MaxValue)
                return Errno.EINVAL;
            int mode = unistd.fcntl(file, unistd.F_GETFL, 0) & O_ACCMODE;
            bool writable = (access & DmaAccess.Write) != 0;
            if (writable ? mode == O_RDONLY : mode == O_WRONLY)
                return Errno.EACCES;

            // A seal is never taken back, so a file that is here as memory needs no second look.
            var key = new FileKey(status.Device, status.Inode, AsMemory: true, writable ? O_RDWR : O_RDONLY);
            bool asMemory = _files.TryGetValue(key, out SharedFile? shared) || IsSealed(file);
            if (!asMemory)
            {
                key = key with { AsMemory = false, Mode = mode };
                _files.TryGetValue(key, out shared);
            }
            if (shared is null || (asMemory && offset + range.Length > shared.Memory!.Length))
            {
                if (!budget.TryTake(asMemory))
                {
                    EvictIdle(0);
                    if (!budget.TryTake(asMemory))
                        return Errno.ENOSPC;
                }
                if (asMemory)
                {
                    shared = Map(key, file, status.Size, offset, range.Length);
                }
                else
                {
                    shared = new SharedFile(key, null, file, 0, budget);
                    unused = null;
                    _files.Add(key, shared);
                }
            }
            else if (shared.Users == 0)
            {
                _idle.Remove(key);
            }
            shared.Users++;
            mapping = new Mapping(range, access, shared, new FilePlace(status.Device, status.Inode, offset));
            return Errno.None;
        }
        catch (LinuxException e)
        {
            return e.Errno;
        }
        finally
        {
            unused?.Dispose();
        }
    }

    /// <summary>Gives back what a retired mapping used.</summary>
    public void Release(Mapping mapping)
    {
        if (mapping.File is not { } file || --file.Users != 0)
            return;
        if (file.Key is not { } key)
        {
            file.Dispose();
            return;
        }
        _idle.Add(key);
        EvictIdle(MaxIdle);
    }

    /// <summary>Closes everything; no mapping may be in use.</summary>
    public void Dispose()
    {
        foreach (SharedFile file in _files.Values)
            file.Dispose();
        _files.Clear();
        _idle.Clear();
    }

    /// <summary>
    /// Memory of a file that its owner can cut short faults. Only the seal rules that out; without it, system calls are used.
    /// </summary>
    private static bool IsSealed(FileDescriptor file)
    {
        int seals = unistd.fcntl(file, unistd.F_GET_SEALS, 0);
        return seals >= 0 && (seals & unistd.F_SEAL_SHRINK) != 0;
    }

    private void EvictIdle(int left)
    {
        while (_idle.Count > left)
        {
            FileKey oldest = _idle[0];
            _idle.RemoveAt(0);
            _files.Remove(oldest, out SharedFile? evicted);
            evicted!.Dispose();
        }
    }

    /// <summary>Maps a file that has been taken into the budget: whole, or the piece that is asked for where that is too large.</summary>
    private SharedFile Map(FileKey key, FileDescriptor file, ulong size, ulong offset, ulong length)
    {
        try
        {
            return MapWhole(key, file, size) ?? MapPiece(file, offset, length, key.Mode == O_RDWR);
        }
        catch
        {
            budget.Return(asMemory: true);
            throw;
        }
    }

    private SharedFile? MapWhole(FileKey key, FileDescriptor file, ulong size)
    {
        try
        {
            var mapped = new SharedFile(key, MemoryMapping.MapShared(file, 0, size, key.Mode == O_RDWR), null, 0, budget);
            if (_files.Remove(key, out SharedFile? old))
            {
                // The file has grown since it was mapped: users of the old memory keep it until they go.
                old.Key = null;
                if (_idle.Remove(key))
                    old.Dispose();
            }
            _files.Add(key, mapped);
            return mapped;
        }
        catch (LinuxException e) when (e.Errno is Errno.ENOMEM or Errno.EOVERFLOW)
        {
            return null; // a sparse file larger than the address space: map only what is asked for
        }
    }

    private SharedFile MapPiece(FileDescriptor file, ulong offset, ulong length, bool writable)
    {
        ulong start = offset & ~((ulong)Environment.SystemPageSize - 1);
        return new SharedFile(null, MemoryMapping.MapShared(file, start, length + (offset - start), writable), null, start, budget);
    }
}
