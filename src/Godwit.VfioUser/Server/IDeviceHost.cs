namespace Godwit.VfioUser;

/// <summary>
/// What the host gives a device while a client is connected. Thread-safe. After <see cref="Read"/> or <see cref="Write"/> returns, the
/// access is over; an unmap by the client waits for accesses in progress.
/// </summary>
public interface IDeviceHost
{
    /// <summary>DMA read through the client's mappings; may cross mappings. False: nothing (readable) there.</summary>
    bool Read(DmaAddress address, Span<byte> destination);

    /// <summary>DMA write; logged page by page after the write.</summary>
    bool Write(DmaAddress address, ReadOnlySpan<byte> data);

    /// <summary>
    /// Pins the mapping(s) around one contiguous piece for direct I/O (for example pread into guest memory). The piece may be shorter
    /// than asked. Dispose ends the access and, if it was for writing, logs it. False: not mapped with memory (use messages) or no right.
    /// </summary>
    bool TryAcquire(DmaAddress address, int length, bool forWrite, out DmaPiece piece);

    /// <summary>Signals vector <paramref name="vector"/> of interrupt index <paramref name="index"/>; nothing happens when no eventfd is set.</summary>
    void Trigger(int index, int vector);

    /// <summary>
    /// Drives the interrupt pin. Signals vector 0 of <see cref="PciIrq.Intx"/> when it becomes asserted, and masks it; again when the
    /// client unmasks it, or sets an eventfd, and it is still or once more asserted: a level is not lost.
    /// </summary>
    void SetPin(bool asserted);
}
