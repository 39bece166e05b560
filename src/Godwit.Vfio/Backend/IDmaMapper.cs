using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>
/// Installs DMA mappings in the host. Maps and unmaps are queued and take effect in order, at the latest when <see cref="Flush"/> returns.
/// One caller at a time.
/// </summary>
internal interface IDmaMapper
{
    /// <summary>Most mappings that can be installed at once.</summary>
    int MaxMappings { get; }

    /// <summary>Lets the device reach <paramref name="block"/> from <paramref name="offset"/> at <paramref name="iova"/>.</summary>
    void QueueMap(IovaPages iova, RamBlock block, ulong offset, bool writable);

    /// <summary>Takes away exactly one mapping made before.</summary>
    void QueueUnmap(IovaPages iova);

    /// <summary>
    /// Waits until everything queued since the last flush is done, and appends what the device refused: an unmap that is not listed is
    /// over, with no DMA left in flight.
    /// </summary>
    void Flush(List<DmaFailure> failures);
}

/// <summary>A map or unmap that the device refused.</summary>
/// <param name="Operation">Its number among those queued since the last flush, from 0.</param>
/// <param name="Errno">Why.</param>
internal readonly record struct DmaFailure(int Operation, Errno Errno);
