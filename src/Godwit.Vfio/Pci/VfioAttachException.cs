namespace Godwit.Vfio;

/// <summary>A device that cannot be attached because of what it is or says of itself.</summary>
public class VfioAttachException(string address, string problem, Exception? inner = null)
    : IOException($"The device at {address} cannot be attached: {problem}", inner)
{
    /// <summary>Where it is.</summary>
    public string Address { get; } = address;
}
