using Godwit.Interop.Linux;
using Godwit.Memory;
using Godwit.Pci;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>
/// Answers a device's DMA by message: through the function's bus-master space, hence through the vIOMMU, and marked dirty for the device.
/// Exists before the function does, because a connection wants an answerer from its first message on.
/// </summary>
internal sealed class DmaMessageRelay : IDmaMessageHandler
{
    private volatile PciFunction? _function;

    /// <summary>Takes messages for <paramref name="function"/>, which has been plugged.</summary>
    public void Attach(PciFunction function) => _function = function;

    /// <inheritdoc/>
    public Errno Read(DmaAddress address, Span<byte> destination) => _function is { } function
        ? Result(function.BusMasterSpace.Read(new BusAddress(address.Value), destination, Attributes(function)))
        : Errno.ENODEV;

    /// <inheritdoc/>
    public Errno Write(DmaAddress address, ReadOnlySpan<byte> data) => _function is { } function
        ? Result(function.BusMasterSpace.Write(new BusAddress(address.Value), data, Attributes(function)))
        : Errno.ENODEV;

    private static TransactionAttributes Attributes(PciFunction function) => new(DirtySource.Device, function.RequesterId.Value);

    private static Errno Result(MemoryResult result) => result switch
    {
        MemoryResult.Ok => Errno.None,
        MemoryResult.AccessError => Errno.EPERM,
        _ => Errno.EFAULT,
    };
}
