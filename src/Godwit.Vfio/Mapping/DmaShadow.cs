using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>
/// Keeps the device's DMA mappings equal to what its address space says: RAM ranges as they appear, and behind IOMMU regions what the guest
/// maps. Changes are collected and carried out at the end of each batch or transaction; when <see cref="Commit"/> returns, everything that
/// was unmapped is out of the device and its dirty pages are in the migration bitmap, so that the guest may be told.
/// </summary>
/// <remarks>
/// Lock order: topology, IOMMU unit, then <see cref="Gate"/>. Nothing that takes one of the first two is called with the gate held. The gate
/// is held from the first host call of a batch until the table says the same as the host, so whoever holds it sees both agree.
/// A device that has gone leaves an empty table; the guest runs on.
/// </remarks>
internal sealed class DmaShadow : IMemoryListener
{
    /// <summary>Operations collected before a batch is cut; bounds what a guest can make us hold (128 KiB).</summary>
    internal const int BatchLimit = 2048;

    private readonly string _device;
    private readonly IDmaMapper _mapper;
    private readonly Action<string> _cutOff;
    private readonly GuestRam _ram;
    private readonly GpaResolver _resolver;
    private readonly NoticeBoard _notices;
    private readonly Dictionary<(MemoryRegion Region, BusAddress First), GuestIommuRange> _guestRanges = []; // under the topology lock
    private readonly List<MappingOperation> _operations = new(64);
    private readonly List<(MappingChange Change, Mapping Mapping)> _queued = new(64);
    private readonly List<Mapping> _removed = new(64);
    private readonly List<DmaFailure> _failures = [];
    private long _mapped, _unmapped, _live, _notInstalledCount, _refusedCount;

    /// <summary>Creates it; nothing is mapped until it listens to a space.</summary>
    /// <param name="device">Id for messages.</param>
    /// <param name="mapper">Installs mappings.</param>
    /// <param name="cutOff">Takes the device out of service, with the reason.</param>
    /// <param name="ram">The machine's RAM.</param>
    /// <param name="resolver">Turns GPAs into RAM pages.</param>
    /// <param name="notices">Told what an operator should know.</param>
    public DmaShadow(string device, IDmaMapper mapper, Action<string> cutOff, GuestRam ram, GpaResolver resolver, NoticeBoard notices)
    {
        _device = device;
        _mapper = mapper;
        _cutOff = cutOff;
        _ram = ram;
        _resolver = resolver;
        NotInstalled = new NotInstalled((int)Math.Min((long)mapper.MaxMappings + NotInstalled.Limit, int.MaxValue));
        _notices = notices;
    }

    /// <summary>Guards <see cref="Installed"/> and everything that must agree with it.</summary>
    public Lock Gate { get; } = new();

    /// <summary>What is installed in the device. Under <see cref="Gate"/>.</summary>
    public MappingTable Installed { get; } = new();

    /// <summary>What the guest mapped and the device does not have. Under <see cref="Gate"/>.</summary>
    public NotInstalled NotInstalled { get; }

    /// <summary>Told of every unmap, when it is over in the host and before the guest is told. Under <see cref="Gate"/>.</summary>
    public IUnmapObserver? UnmapObserver { get; set; }

    /// <summary>Whether the device has gone; its table is empty then. Under <see cref="Gate"/>.</summary>
    public bool IsLost { get; private set; }

    /// <summary>Why the vIOMMU cannot be followed (it does not announce mappings); null when it can.</summary>
    public string? ShadowingRefused { get; private set; }

    /// <summary>Mappings installed since the start.</summary>
    public long MappedCount => Volatile.Read(ref _mapped);

    /// <summary>Mappings removed since the start.</summary>
    public long UnmappedCount => Volatile.Read(ref _unmapped);

    /// <summary>Mappings installed now.</summary>
    public long LiveCount => Volatile.Read(ref _live);

    /// <summary>Guest mappings that the device does not have now.</summary>
    public long NotInstalledCount => Volatile.Read(ref _notInstalledCount);

    /// <summary>Of those, mappings of RAM: the device could not or would not take them.</summary>
    public long RefusedCount => Volatile.Read(ref _refusedCount);

    /// <inheritdoc/>
    public void RegionAdded(in FlatRange range)
    {
        switch (range.Region)
        {
            case RamRegion ram:
                AddRam(range, ram);
                break;
            case IommuRegion iommu:
                var guest = new GuestIommuRange(this, iommu, range.Range, range.OffsetInRegion);
                _guestRanges[(iommu, range.Range.First)] = guest;
                try
                {
                    guest.Register();
                    ShadowingRefused = null;
                }
                catch (NotSupportedException e)
                {
                    _guestRanges.Remove((iommu, range.Range.First));
                    ShadowingRefused = e.Message;
                    _notices.PostOnce(NoticeKind.ShadowingRefused, $"{_device}: the vIOMMU cannot announce its mappings ({e.Message}); the device has no access to memory");
                }

                break;
            default:
                break; // MMIO: no peer-to-peer DMA
        }
    }

    /// <inheritdoc/>
    public void RegionRemoved(in FlatRange range)
    {
        if (range.Region is not (RamRegion or IommuRegion))
            return;
        if (_guestRanges.Remove((range.Region, range.Range.First), out GuestIommuRange? guest))
            guest.Unregister();
        if (IovaPages.TryInside(range.Range, out IovaPages pages))
            Add(MappingOperation.Unmap(pages));
    }

    /// <inheritdoc/>
    public void TransactionCommit() => Commit();

    /// <summary>The guest has mapped <paramref name="length"/> bytes; the target is resolved now, piece by piece.</summary>
    public void GuestMapped(Iova iova, ulong length, Gpa target, AccessRights rights)
    {
        const ulong InPage = RamPage.Size - 1;
        if (length == 0 || rights == AccessRights.None)
            return;
        if (((iova.Value | length | target.Value) & InPage) != 0)
        {
            ulong last = iova.Value + Math.Min(length - 1, ulong.MaxValue - iova.Value);
            Add(MappingOperation.Unreachable(IovaPages.Between(iova.Value >> RamPage.Shift, (last >> RamPage.Shift) + 1), NotInstalledReason.Unaligned));
            return;
        }

        ulong page = iova.Value >> RamPage.Shift;
        ulong left = Math.Min(length >> RamPage.Shift, IovaPages.SpacePages - page);
        ulong gpaPage = target.Value >> RamPage.Shift;
        while (left > 0)
        {
            // A target beyond the top of the GPA space is no RAM; the page number is kept from wrapping instead of the address.
            ResolvedPiece piece = gpaPage < IovaPages.SpacePages
                ? _resolver.Resolve(new Gpa(gpaPage << RamPage.Shift), left)
                : new ResolvedPiece(left, null, false);
            ulong pages = Math.Min(piece.Pages, left);
            var range = new IovaPages(page, pages);
            Add(piece.Ram is { } ram
                ? MappingOperation.Map(new Mapping(range, ram, (rights & AccessRights.Write) != 0 && !piece.ReadOnly))
                : MappingOperation.Unreachable(range, NotInstalledReason.NotRam));
            page += pages;
            gpaPage += pages;
            left -= pages;
        }
    }

    /// <summary>The guest has removed everything in a range.</summary>
    public void GuestUnmapped(Iova iova, ulong length)
    {
        if (length == 0)
            return;
        ulong last = iova.Value + Math.Min(length - 1, ulong.MaxValue - iova.Value);
        Add(MappingOperation.Unmap(IovaPages.Between(iova.Value >> RamPage.Shift, (last >> RamPage.Shift) + 1)));
    }

    /// <summary>
    /// Carries out what has been collected, by whomever. On return it is done: also when another thread did it, because that one held the gate.
    /// </summary>
    public void Commit()
    {
        lock (Gate)
            CommitCollected();
    }

    /// <summary>Every mapping of RAM that was asked for is in the device, which has acknowledged it. Nothing is being collected.</summary>
    /// <exception cref="IOException">One is not; it is named, with the reason.</exception>
    public void RequireAllInstalled()
    {
        lock (Gate)
        {
            if (NotInstalled.TryFindRefused(out IovaPages range, out NotInstalledReason reason))
            {
                throw new IOException(reason == NotInstalledReason.LimitReached
                    ? $"{_device}: the device here takes at most {_mapper.MaxMappings} DMA mappings, and the guest's {range} is one more"
                    : $"{_device}: the device here refused to map the guest's {range}");
            }

            if (NotInstalled.ForgottenRefused is > 0 and var more)
                throw new IOException($"{_device}: the device here has not taken {more} of the guest's mappings, which are more than can be remembered");
        }
    }

    /// <summary>The device has gone: nothing is installed any more.</summary>
    public void Abandon()
    {
        lock (Gate)
            ForgetAll();
    }

    private void AddRam(in FlatRange range, RamRegion ram)
    {
        if (!IovaPages.TryInside(range.Range, out IovaPages pages))
            return;
        ulong inRegion = range.OffsetInRegion + (pages.Iova.Value - range.Range.First.Value);
        if ((inRegion & (RamPage.Size - 1)) != 0)
        {
            // Memory whose bus address and offset differ within a page cannot be mapped by pages.
            Add(MappingOperation.Unreachable(pages, NotInstalledReason.Unaligned));
            return;
        }

        bool writable = !range.ReadOnly && !ram.ReadOnly;
        Add(MappingOperation.Map(new Mapping(pages, ram.Block.FirstPage + (inRegion >> RamPage.Shift), writable)));
    }

    private void Add(in MappingOperation operation)
    {
        lock (Gate)
        {
            _operations.Add(operation);
            if (_operations.Count >= BatchLimit)
                CommitCollected();
        }
    }

    private void CommitCollected()
    {
        if (_operations.Count == 0)
            return;
        try
        {
            if (!IsLost)
            {
                foreach (MappingOperation operation in _operations)
                    Apply(operation);
                // What was one too many has its turn where others have gone. The guest is told of neither before this is over.
                while (NotInstalled.AnyWaits && Installed.Count < _mapper.MaxMappings && NotInstalled.TryTakeWaiting(out Mapping waiting))
                    Install(waiting);
                _mapper.Flush(_failures);
                foreach (DmaFailure failure in _failures)
                    TakeBack(failure);
                if (_removed.Count > 0)
                    UnmapObserver?.Unmapped(CollectionsMarshal.AsSpan(_removed));
            }
        }
        catch (DeviceLostException)
        {
            ForgetAll();
        }
        finally
        {
            _operations.Clear();
            _queued.Clear();
            _removed.Clear();
            _failures.Clear();
            Count();
        }
    }

    private void Apply(in MappingOperation operation)
    {
        switch (operation.Change)
        {
            case MappingChange.Map:
                Remove(operation.Iova); // announced twice: the later one counts
                Install(new Mapping(operation.Iova, operation.Ram, operation.Writable));
                break;
            case MappingChange.MapUnreachable:
                Remove(operation.Iova);
                NotInstalled.Add(operation.Iova, operation.Reason);
                if (operation.Reason == NotInstalledReason.NotRam)
                    _notices.PostOnce(NoticeKind.NotRam, $"{_device}: the guest has mapped {operation.Iova} to what is no RAM, a BAR or nothing; DMA from device to device is not offered, so its access there fails");
                break;
            default:
                Remove(operation.Iova);
                break;
        }
    }

    private void Remove(IovaPages range)
    {
        if (NotInstalled.Count > 0 || NotInstalled.Forgotten > 0)
            NotInstalled.Remove(range);
        while (Installed.TryTakeFirst(range, out Mapping mapping))
        {
            if (UnmapObserver?.TryUnmap(mapping) != true)
                _mapper.QueueUnmap(mapping.Iova);
            _queued.Add((MappingChange.Unmap, mapping));
            _removed.Add(mapping);
            _unmapped++;
            // The host takes away whole mappings only. What sticks out comes back as a mapping of its own.
            if (mapping.Iova.First < range.First)
                Install(mapping.Part(mapping.Iova.First, range.First));
            if (mapping.Iova.End > range.End)
                Install(mapping.Part(range.End, mapping.Iova.End));
        }
    }

    private void Install(in Mapping mapping)
    {
        if (Installed.Count >= _mapper.MaxMappings)
        {
            if (!NotInstalled.AddWaiting(mapping))
                _notices.PostOnce(NoticeKind.MappingForgotten, $"{_device}: {mapping.Iova} is one mapping more than can be remembered beside those of the device; its access there fails until the guest maps it again");
            _notices.PostOnce(NoticeKind.MappingLimit, $"{_device}: {mapping.Iova} is not mapped: the device takes at most {_mapper.MaxMappings} DMA mappings; its access there fails until there is room");
            return;
        }

        if (!_ram.TryResolve(mapping.Ram, out RamBlock block, out ulong offset))
            throw new InvalidOperationException($"{mapping.Ram} of a mapping is no RAM");
        if (!Installed.TryInsert(mapping))
            throw new InvalidOperationException($"{mapping.Iova} is already installed");
        _mapper.QueueMap(mapping.Iova, block, offset, mapping.Writable);
        _queued.Add((MappingChange.Map, mapping));
        _mapped++;
    }

    private void TakeBack(DmaFailure failure)
    {
        (MappingChange change, Mapping mapping) = _queued[failure.Operation];
        if (change == MappingChange.Map)
        {
            _notices.PostOnce(NoticeKind.MapRefused, $"{_device}: the device refused to map {mapping.Iova}: {failure.Errno}; its access there fails");
            // Unless a later operation of the same batch has removed it already.
            if (!IsRemovedAfter(failure.Operation, mapping))
            {
                Installed.TryTakeFirst(mapping.Iova, out _);
                NotInstalled.Add(mapping.Iova, NotInstalledReason.Refused);
            }
        }
        else if (failure.Errno != Errno.ENOENT) // ENOENT: it was not there, which is what was wanted
        {
            string reason = $"{_device}: the device did not let go of {mapping.Iova} ({failure.Errno}) and was cut off, so that it cannot write memory that the guest uses for something else";
            _notices.Post(reason);
            _cutOff(reason);
            throw new DeviceLostException(reason);
        }
    }

    private bool IsRemovedAfter(int operation, in Mapping mapping)
    {
        for (int i = operation + 1; i < _queued.Count; i++)
        {
            if (_queued[i].Change == MappingChange.Unmap && _queued[i].Mapping == mapping)
                return true;
        }

        return false;
    }

    private void ForgetAll()
    {
        IsLost = true;
        Installed.Clear();
        NotInstalled.Clear();
        Count();
    }

    private void Count()
    {
        Volatile.Write(ref _live, Installed.Count);
        Volatile.Write(ref _notInstalledCount, NotInstalled.Count + NotInstalled.Forgotten);
        Volatile.Write(ref _refusedCount, NotInstalled.Refused);
    }
}
