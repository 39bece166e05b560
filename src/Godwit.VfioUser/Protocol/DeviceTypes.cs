using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>GET_INFO.</summary>
public readonly record struct DeviceInfo(int RegionCount, int IrqCount, bool CanReset, bool IsPci);

/// <summary>One mappable piece of a region.</summary>
public readonly record struct SparseArea(ulong Offset, ulong Size);

/// <summary>GET_REGION_INFO. <see cref="File"/> is owned by the receiver and null when the region is not mappable.</summary>
public sealed record RegionInfo(int Index, ulong Size, bool Readable, bool Writable, ulong FileOffset, IReadOnlyList<SparseArea> Mappable, FileDescriptor? File);

/// <summary>GET_IRQ_INFO.</summary>
public readonly record struct IrqInfo(int Index, int Count, bool EventFd, bool Maskable, bool AutoMasked, bool NoResize);
